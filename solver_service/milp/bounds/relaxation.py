"""The bound of a model's LP relaxation, rows added as they are broken, without a branching solver."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from solver_service.milp.backends.highs import LinearProgram, LpStatus
from solver_service.milp.bounds.lagrangian import lagrangian_bound
from solver_service.milp.core.problem import Array, Index, Mask
from solver_service.milp.formulation.model import LinearModel

BROKEN = 1e-6
AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A proven lower limit of a model's objective, and the rows that it took [rows]."""

    bound: float
    used: Mask


def relax(model: LinearModel, should_stop: Callable[[], bool]) -> Relaxation:
    """Solve the LP relaxation of a model whose rows have a lower side only and whose columns are bounded.

    Every round's duals prove a bound, so that stopping early costs no more than the later rounds' gain.
    """
    program = LinearProgram(model.objective, model.lower, model.upper, should_stop=should_stop)
    values = np.clip(0.0, model.lower, model.upper)
    used = np.zeros(model.rows, dtype=bool)
    order = np.zeros(0, dtype=np.int64)
    # No objective here is below 0.
    bound = 0.0
    while not should_stop():
        # Rows that are in hold up to the LP's tolerance: they do not count as broken again.
        new = _most_broken(np.where(used, 0.0, model.row_lower - model.matrix @ values))
        if new.size == 0:
            break
        program.add_rows(sp.csr_array(model.matrix[new]), model.row_lower[new])
        used[new] = True
        order = np.concatenate([order, new])
        found = program.run()
        if found.status is not LpStatus.OPTIMAL:
            break
        # Fewer rows are a relaxation of all rows, so every round's bound is one of the model.
        values = found.columns
        bound = max(bound, _bound(model, order, found.duals))
    return Relaxation(bound + model.constant, used)


def _bound(model: LinearModel, rows: Index, duals: Array) -> float:
    return lagrangian_bound(
        model.objective,
        sp.csr_array(model.matrix[rows]),
        duals,
        row_lower=model.row_lower[rows],
        lower=model.lower,
        upper=model.upper,
    )


def _most_broken(violation: Array) -> Index:
    order = np.argsort(-violation, kind="stable")[:AT_ONCE]
    return np.asarray(order[violation[order] > BROKEN])
