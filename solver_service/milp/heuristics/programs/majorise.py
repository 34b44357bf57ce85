"""Majorise-minimise for ramp: ramp = min over kept sets A of (hinge over A) + (cost of the others)."""

from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np

from solver_service.milp.core.problem import Mask
from solver_service.milp.heuristics.programs.elastic_filter import drop_until_met
from solver_service.milp.heuristics.programs.kept_search import BETTER, Found, Search

FEWEST, MOST = 3, 25
"""How many groups a restart flips (docs/formulations/searches.md, "Majorise-minimise")."""
FILTER_SHARE = 0.25
TRIAL = 30
"""Restarts that each beginning gets before the better one gets them all."""
HOPELESS = 1.05
"""A beginning that is worse than the other one by this factor gets none."""
ROUNDS_PER_GROUP = 5
"""Restarts in vain after which a small problem has shown all it has."""


def search_ramp(search: Search) -> Iterator[None]:
    """Descend from everything and from what a filter keeps; try both with perturbations, go on from the better one."""
    first = descend(search, _beginning(search))
    yield
    if first is None or search.done:
        return
    basins = [first] if search.resumed else [first, *_filtered(search)]
    lowest = min(found.loss for found in basins)
    tried = []
    for found in basins:
        if found.loss <= HOPELESS * lowest:
            tried.append((yield from _walk(search, found, TRIAL)))
    yield from _walk(search, min(tried, key=lambda found: found.loss), None)


def _walk(search: Search, best: Found, rounds: int | None) -> Generator[None, None, Found]:
    """Perturb and descend, keeping what is better: for some rounds, or (None) until too many in a row were in vain."""
    step, idle = 0, 0
    most_idle = min(search.budget.rounds, ROUNDS_PER_GROUP * best.kept.size)
    while not search.done and idle <= most_idle and (rounds is None or step < rounds):
        step, idle = step + 1, idle + 1
        found = descend(search, flip_some(best.kept, search.rng))
        if found is not None and found.loss < best.loss - BETTER:
            best, idle = found, 0
        yield
    return best


def _beginning(search: Search) -> Mask:
    """Everything, or what the incumbent keeps."""
    requirements = search.screened.requirements
    if not search.resumed:
        return np.ones(requirements.groups, dtype=bool)
    values = requirements.values(search.space, search.incumbents.change)
    return np.asarray(requirements.shortfalls(values) < 1.0)


def _filtered(search: Search) -> list[Found]:
    """The descent from what an elastic filter keeps whole: far better where the box lets most groups be met."""
    count = replace(search.screened, requirements=replace(search.screened.requirements, style="count"))
    counting = replace(search, screened=count, budget=search.budget.share(FILTER_SHARE))
    met = drop_until_met(counting, np.ones(count.requirements.groups, dtype=bool))
    found = None if met is None else descend(search, met.kept)
    return [] if found is None else [found]


def descend(search: Search, active: Mask) -> Found | None:
    """Solve the hinge LP over A, take A = {margin above 0}, repeat: monotone and finite."""
    requirements = replace(search.screened.requirements, cost=search.price)
    best: Found | None = None
    while not search.budget.over:
        # G_A without its constant: groups outside A pull at nothing.
        point = search.program.solve(np.where(active, requirements.cost, 0.0))
        if point is None:
            break
        loss = float(requirements.losses(point.shortfalls).sum())
        if best is not None and loss >= best.loss - BETTER:
            break
        # The set that is best at this point, so F falls until it repeats
        # (docs/formulations/searches.md, "Majorise-minimise").
        active = point.shortfalls < 1.0
        best = Found(loss, point, active)
    return best


def flip_some(kept: Mask, rng: np.random.Generator) -> Mask:
    """The same groups [g], but for a few drawn at random."""
    most = min(MOST, kept.size)
    flipped = kept.copy()
    chosen = rng.choice(kept.size, rng.integers(min(FEWEST, most), most + 1), replace=False)
    flipped[chosen] = ~flipped[chosen]
    return flipped
