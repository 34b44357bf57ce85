"""Chinneck's elastic filter for counts: drop what costs the most until the rest can be had, then walk on by swaps."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import cast

import numpy as np

from solver_service.milp.core.problem import Index, Mask
from solver_service.milp.core.requirements import Requirements
from solver_service.milp.heuristics.programs.kept_search import BETTER, Found, Search
from solver_service.milp.heuristics.programs.lazy_lp import LazyPoint
from solver_service.milp.heuristics.programs.push_off import finish_count

WIDTH = 0.001
"""How far beyond the need the filter pulls (docs/formulations/searches.md, "Elastic filter")."""
DROP_SHARE = 0.05
STEPS_PER_ROUND = 15
BACK_TO_BEST = 40
KICK = 4
"""How many dropped groups are forced back in at once, to leave where single swaps lead nowhere."""
INSIST = 100.0
"""How much more a group that is forced back in weighs."""
REST = 7
"""Steps for which a group that was just readmitted is not readmitted again."""


def widened(requirements: Requirements) -> Requirements:
    """The same requirements with a little more to pull for than is needed, in proportion to what can move."""
    width = min(WIDTH, 0.1 * float(np.median(requirements.reach)))
    return replace(requirements, need=requirements.need + width)


def search_count(search: Search) -> Iterator[None]:
    """Filter once from everything; then force dropped groups back in, one at a time, and keep what is no worse."""
    current = drop_until_met(search, np.ones(search.screened.requirements.groups, dtype=bool))
    if current is None:
        return
    offer_kept(search, current)
    yield
    best, idle, step = current, 0, 0
    # By one cheapest group a step may be worse than the best: plateaus are wide.
    slip = float(search.price.min())
    rested = np.zeros(current.kept.size, dtype=np.int64)
    while not search.done and idle <= STEPS_PER_ROUND * search.budget.rounds:
        step, idle = step + 1, idle + 1
        candidates = np.flatnonzero(~current.kept & (rested <= step))
        if candidates.size:
            forced = search.rng.choice(candidates, 1)
            rested[forced] = step + REST
            current = _swap_in(search, current, forced, max(current.loss, best.loss + slip)) or current
        if current.loss < best.loss - BETTER:
            best, idle = current, 0
            offer_kept(search, best)
        elif idle % BACK_TO_BEST == 0:
            kicked = search.rng.choice(np.flatnonzero(~best.kept), min(KICK, int((~best.kept).sum())), replace=False)
            current = _swap_in(search, best, kicked, np.inf) or best
        yield


def _swap_in(search: Search, current: Found, forced: Index, most: float) -> Found | None:
    """Force dropped groups back in; the filter drops what it must for them."""
    wanted = current.kept.copy()
    wanted[forced] = True
    return drop_until_met(search, wanted, forced=forced, most=most)


def drop_until_met(search: Search, active: Mask, *, forced: Index | None = None, most: float = np.inf) -> Found | None:
    """Drop the group with the largest slack times price until all others are met; None beyond a loss of `most`."""
    steps = dropping(search, active, forced=forced, most=most)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(Found | None, end.value)


def dropping(
    search: Search, active: Mask, *, forced: Index | None = None, most: float = np.inf
) -> Generator[None, None, Found | None]:
    """The same, a linear program at a time."""
    cost = search.price
    pull = cost.copy()
    if forced is not None:
        # Costs so much that the filter drops others for them.
        pull[forced] = INSIST * cost.max()
    while not search.budget.over:
        point = search.program.solve(np.where(active, pull, 0.0))
        if point is None:
            return None
        met = _met(search, point)
        missed = np.flatnonzero(active & ~met)
        if missed.size == 0:
            return Found(float(cost[~met].sum()), point, met)
        # Shortfall times dual estimates what the LP gains without the group; by its cost.
        blame = point.shortfalls[missed] * (point.prices[missed] + 1e-12) / cost[missed]
        drop = max(1, int(DROP_SHARE * missed.size))
        active[missed[np.argsort(-blame, kind="stable")[:drop]]] = False
        if cost[~active & ~met].sum() > most + BETTER:
            return None
        yield
    return None


def _met(search: Search, point: LazyPoint) -> Mask:
    return np.asarray(search.screened.requirements.shortfalls(point.values) <= 0)


def offer_kept(search: Search, found: Found) -> None:
    """Hand a solution on, with the finishing step where rounding spoils it."""
    claimed = float(search.screened.requirements.cost[~found.kept].sum()) + search.screened.cost
    if claimed < search.incumbents.best.objective and search.incumbents.offer(found.point.change) > claimed:
        finish_count(search.space, search.screened, search.incumbents, found.kept, lambda: search.budget.over)
