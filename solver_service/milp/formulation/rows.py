"""The coefficients of requirements on a change, as sparse rows: what every model here is made of."""

import numpy as np
import scipy.sparse as sp

from solver_service.milp.core.problem import Array, Space
from solver_service.milp.core.requirements import Requirements


def change_rows(space: Space, requirements: Requirements, scale: Array) -> sp.csr_array:
    """Each requirement's coefficients on the flattened change, divided by scale [rows]: [rows, h (d+1)]."""
    width = space.inputs.shape[1]
    inputs = space.inputs[requirements.sample] / scale[:, None]
    # Unit -1 finds the row of zeros at the end.
    radius = np.vstack([space.radius, np.zeros(width)])
    # d t_r / d x: g_n R_plus on the entries of plus, -g_n R_minus on those of minus; [r, 2 (d+1)].
    values = np.hstack([inputs * radius[requirements.plus], -inputs * radius[requirements.minus]])
    offsets = np.arange(width)
    columns = np.hstack([requirements.plus[:, None] * width + offsets, requirements.minus[:, None] * width + offsets])
    row, entry = np.nonzero(values)
    return sp.csr_array((values[row, entry], (row, columns[row, entry])), shape=(requirements.rows, space.columns))


def nonzeros(space: Space, requirements: Requirements) -> int:
    """How many coefficients `change_rows` would have, at most."""
    filled = np.count_nonzero(space.inputs, axis=1)[requirements.sample]
    units = (requirements.plus >= 0).astype(int) + (requirements.minus >= 0)
    return int(filled @ units)
