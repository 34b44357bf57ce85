"""Line searches that bring what a descent ends with back to where all constraints are kept."""

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

REPAIRS, WIDER_REPAIRS = 40, 40
"""So many at most: along biases, then along anything."""


def offer_mended(change: Array, walk: Walk, incumbents: Incumbents, budget: Budget) -> bool:
    """Offer a change [h, c] with its constraints mended; whether it kept them before anything was."""
    walk.goto(change)
    kept = walk.rank.broken == 0
    walk.mend(REPAIRS, lambda: budget.over)
    for _ in range(WIDER_REPAIRS):
        if walk.rank.broken == 0 or budget.over:
            break
        walk.random_step()
    incumbents.offer_whole(walk.change)
    return kept
