"""Majorise-minimise for ramp: ramp = min over kept sets A of (hinge over A) + (cost of the others)."""

import numpy as np

from solver_service.milp.problem import Mask
from solver_service.milp.rounding import change_of
from solver_service.milp.search import BETTER, Found, Search

FEWEST, MOST = 3, 25
"""How many groups a restart flips (FORMULATIONS, "Starts and heuristics")."""
ROUNDS_PER_GROUP = 5
"""Restarts in vain after which a small problem has shown all it has."""


def search_ramp(search: Search) -> None:
    """Descend from everything, then from perturbations of the best, until too many in a row were in vain."""
    best, idle = None, 0
    active = _beginning(search)
    most = min(search.budget.rounds, ROUNDS_PER_GROUP * active.size)
    while not search.done and idle <= most:
        found = _descend(search, active)
        if found is not None and (best is None or found.loss < best.loss - BETTER):
            best, idle = found, 0
        if best is None:
            return
        idle += 1
        active = _flip_some(best.kept, search.rng)


def _beginning(search: Search) -> Mask:
    """What the incumbent keeps; everything, where nobody has looked yet."""
    requirements, best = search.screened.requirements, search.incumbents.best
    if not search.incumbents.history:
        return np.ones(requirements.groups, dtype=bool)
    values = requirements.values(search.problem, change_of(search.problem, best.weight, best.bias))
    return np.asarray(requirements.shortfalls(values) < 1.0)


def _descend(search: Search, active: Mask) -> Found | None:
    """Solve the hinge LP over A, take A = {margin above 0}, repeat: monotone and finite."""
    requirements = search.screened.requirements
    best: Found | None = None
    while not search.budget.over:
        point = search.program.solve(np.where(active, requirements.cost, 0.0))
        if point is None:
            break
        loss = float(requirements.losses(point.shortfalls).sum())
        if best is not None and loss >= best.loss - BETTER:
            break
        active = point.shortfalls < 1.0
        best = Found(loss, point, active)
    return best


def _flip_some(kept: Mask, rng: np.random.Generator) -> Mask:
    most = min(MOST, kept.size)
    flipped = kept.copy()
    chosen = rng.choice(kept.size, rng.integers(min(FEWEST, most), most + 1), replace=False)
    flipped[chosen] = ~flipped[chosen]
    return flipped
