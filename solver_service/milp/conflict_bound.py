"""A proven lower limit from conflict cuts alone, and the few of them that carry it."""

import numpy as np
import scipy.sparse as sp

from solver_service.milp.backends.highs import LinearProgram, LpStatus
from solver_service.milp.budget import Budget
from solver_service.milp.formulation.compact import Cuts
from solver_service.milp.problem import Array, Index
from solver_service.milp.requirements import Requirements

ROUNDS = 40
PER_GROUP = 3
VIOLATED = 1e-6


def conflict_bound(requirements: Requirements, cuts: Cuts, budget: Budget) -> tuple[float, Cuts]:
    """Minimise the loss under the cuts alone, adding violated ones round by round: (proven limit, cuts in use)."""
    groups = requirements.groups
    slack = np.where(requirements.style == "capped", 1.0, 0.0)
    cost = np.tile(requirements.cost / requirements.cost.max(initial=1e-300), 2)
    upper = np.concatenate([np.ones(groups), np.full(groups, slack)])
    program = LinearProgram(cost, np.zeros(2 * groups), upper, should_stop=lambda: budget.over)
    matrix = _matrix(cuts, groups)
    used = np.zeros(len(cuts.groups), dtype=bool)
    values, bound, order = np.zeros(2 * groups), 0.0, np.zeros(0, dtype=np.int64)
    for _ in range(ROUNDS):
        new = _worst(cuts.groups, np.where(used, 0.0, 1.0 - matrix @ values))
        if budget.over or not new.size:
            break
        program.add_rows(sp.csr_array(matrix[new]), np.ones(new.size))
        used[new] = True
        order = np.concatenate([order, new])
        found = program.run()
        if found.status is not LpStatus.OPTIMAL:
            break
        values = found.columns
        bound = _safe_bound(cost, upper, matrix[order], found.duals)
    scale = float(requirements.cost.max(initial=0.0))
    return scale * max(0.0, bound), Cuts(cuts.groups[used], cuts.give_up[used], cuts.slack[used])


def _matrix(cuts: Cuts, groups: int) -> sp.csr_array:
    """Coefficients on (z, xi) of every group."""
    row = np.repeat(np.arange(len(cuts.groups)), 4)
    column = np.hstack([cuts.groups, cuts.groups + groups]).ravel()
    values = np.hstack([cuts.give_up, cuts.slack]).ravel()
    return sp.csr_array((values, (row, column)), shape=(len(cuts.groups), 2 * groups))


def _worst(groups: Index, violation: Array) -> Index:
    """The most violated cuts, a few for each group on their first side."""
    order = np.argsort(-violation, kind="stable")
    order = order[violation[order] > VIOLATED]
    first = groups[order, 0]
    by_group = np.argsort(first, kind="stable")
    starts = np.searchsorted(first[by_group], first[by_group])
    return np.asarray(order[by_group[np.arange(first.size) - starts < PER_GROUP]])


def _safe_bound(cost: Array, upper: Array, matrix: sp.csr_array, duals: Array) -> float:
    price = np.maximum(duals, 0.0)
    reduced = cost - matrix.T @ price
    return float(price.sum() + np.minimum(reduced, 0.0) @ upper)
