"""The coefficients of requirements on a change, as sparse rows: what every model here is made of."""

import numpy as np
import scipy.sparse as sp

from solver_service.milp.problem import Array, Problem
from solver_service.milp.requirements import Requirements


def change_rows(problem: Problem, requirements: Requirements, scale: Array) -> sp.csr_array:
    """Each requirement's coefficients on the flattened change, divided by scale [rows]: [rows, h (d+1)]."""
    width = problem.inputs.shape[1]
    inputs = problem.inputs[requirements.sample] / scale[:, None]
    radius = np.vstack([problem.radius, np.zeros(width)])
    values = np.hstack([inputs * radius[requirements.plus], -inputs * radius[requirements.minus]])
    offsets = np.arange(width)
    columns = np.hstack([requirements.plus[:, None] * width + offsets, requirements.minus[:, None] * width + offsets])
    row, entry = np.nonzero(values)
    return sp.csr_array((values[row, entry], (row, columns[row, entry])), shape=(requirements.rows, problem.columns))


def nonzeros(problem: Problem, requirements: Requirements) -> int:
    """How many coefficients `change_rows` would have, at most."""
    filled = np.count_nonzero(problem.inputs, axis=1)[requirements.sample]
    units = (requirements.plus >= 0).astype(int) + (requirements.minus >= 0)
    return int(filled @ units)
