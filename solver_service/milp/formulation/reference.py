"""The authors' model (Ashok et al., 2022), for comparison: an indicator per rival, nothing screened, nothing added."""

import numpy as np
import scipy.sparse as sp

from solver_service.milp.core.problem import Array, Space
from solver_service.milp.core.requirements import Requirements
from solver_service.milp.formulation.model import LinearModel, always, stack
from solver_service.milp.formulation.rows import change_rows


def reference_model(space: Space, requirements: Requirements) -> LinearModel:
    """Build it for zero_one: u_r = 1 -> t_r >= need; (K-1) z_n <= sum of u over n's rows; maximise sum w z.

    It is stated as the minimum of `sum w (1 - z)`, so that its bound is comparable. Columns: change, u, z.
    """
    rows, groups, first = requirements.rows, requirements.groups, space.columns
    # u_r = 1 -> -A_r x <= t0_r - v: SCIP's indicators switch rows with an upper side.
    switched = change_rows(space, requirements, -np.ones(rows))
    switched = sp.csr_array(sp.hstack([switched, sp.csr_array((rows, rows + groups))], format="csr"))
    lower, upper = np.zeros(first + rows + groups), np.ones(first + rows + groups)
    lower[:first] = -1.0
    objective = np.zeros(lower.size)
    # sum w (1 - z): -w for each z, and sum w as the constant.
    objective[first + rows :] = -requirements.cost
    integer = np.zeros(lower.size, dtype=bool)
    integer[first:] = True
    return LinearModel(
        objective=objective,
        constant=float(requirements.cost.sum()),
        matrix=stack(switched, _counting_rows(requirements, first)),
        row_lower=np.concatenate([np.full(rows, -np.inf), np.zeros(groups)]),
        row_upper=np.concatenate([requirements.level - requirements.need, np.full(groups, np.inf)]),
        lower=lower,
        upper=upper,
        integer=integer,
        change_columns=first,
        indicator=np.concatenate([first + np.arange(rows), always(groups)]),
    )


def complete_reference(requirements: Requirements, change: Array, values: Array) -> Array:
    """The full solution vector that a change [h, d+1] with row values t_r extends to."""
    met = values >= requirements.need
    right = np.ones(requirements.groups)
    np.minimum.at(right, requirements.group, met.astype(np.float64))
    return np.concatenate([change.ravel(), met.astype(np.float64), right])


def _counting_rows(requirements: Requirements, first: int) -> sp.csr_array:
    rows, groups = requirements.rows, requirements.groups
    # sum_r u_r - (K - 1) z_n >= 0
    per_group = np.bincount(requirements.group, minlength=groups).astype(np.float64)
    data = np.concatenate([np.ones(rows), -per_group])
    row = np.concatenate([requirements.group, np.arange(groups)])
    column = first + np.arange(rows + groups)
    return sp.csr_array((data, (row, column)), shape=(groups, first + rows + groups))
