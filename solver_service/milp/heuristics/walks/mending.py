"""Line searches that bring what a descent ends with back to where all constraints are kept."""

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

REPAIRS, WIDER_REPAIRS = 40, 40
"""So many at most: along biases, then along anything."""


def offer_mended(change: Array, walk: Walk, incumbents: Incumbents, budget: Budget) -> bool:
    """Offer a change [h, c] with its constraints mended; whether it kept them before anything was."""
    kept = mend(change, walk, budget, REPAIRS, WIDER_REPAIRS)
    incumbents.offer_whole(walk.change)
    return kept


def mend(change: Array, walk: Walk, budget: Budget, steps: int, wider: int) -> bool:
    """Take a walk to a change [h, c] and on to where constraints are kept; whether they were before anything moved."""
    walk.cheapen(1.0)
    walk.goto(change)
    kept = walk.rank.broken == 0
    walk.mend(steps, lambda: budget.over)
    for _ in range(wider):
        if walk.rank.broken == 0 or budget.over:
            break
        walk.random_step()
    return kept
