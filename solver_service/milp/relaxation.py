"""The bound of a model's LP relaxation, rows added as they are broken, without a branching solver."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from solver_service.milp.backends.highs import LinearProgram, LpStatus
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.problem import Array, Index

BROKEN = 1e-6
AT_ONCE = 500


def relaxation_bound(model: LinearModel, should_stop: Callable[[], bool]) -> float:
    """A proven lower limit of the model's objective; every round's duals give one, so stopping early is fine.

    The model's rows have a lower side only.
    """
    program = LinearProgram(model.objective, model.lower, model.upper, should_stop=should_stop)
    values = np.where(model.objective > 0, model.lower, np.clip(0.0, model.lower, model.upper))
    present = np.zeros(model.rows, dtype=bool)
    order = np.zeros(0, dtype=np.int64)
    best = 0.0
    while not should_stop():
        new = _most_broken(np.where(present, 0.0, model.row_lower - model.matrix @ values))
        if new.size == 0:
            break
        program.add_rows(sp.csr_array(model.matrix[new]), model.row_lower[new])
        present[new] = True
        order = np.concatenate([order, new])
        found = program.run()
        if found.status is not LpStatus.OPTIMAL:
            break
        values = found.columns
        best = max(best, lagrangian_bound(model, order, found.duals))
    return best + model.constant


def lagrangian_bound(model: LinearModel, rows: Index, duals: Array) -> float:
    """What these duals prove, whatever their rounding: the Lagrangian's minimum over the column bounds."""
    price = np.maximum(duals, 0.0)
    reduced = model.objective - model.matrix[rows].T @ price
    smallest = np.minimum(reduced * model.lower, reduced * model.upper).sum()
    return float(price @ model.row_lower[rows] + smallest)


def _most_broken(violation: Array) -> Index:
    order = np.argsort(-violation, kind="stable")[:AT_ONCE]
    return np.asarray(order[violation[order] > BROKEN])
