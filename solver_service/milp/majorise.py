"""Majorise-minimise for ramp: ramp = min over kept sets A of (hinge over A) + (cost of the others)."""

import numpy as np

from solver_service.milp.problem import Mask
from solver_service.milp.search import BETTER, Found, Search

FEWEST, MOST = 3, 25
"""How many groups a restart flips (FORMULATIONS, "Starts and heuristics")."""


def search_ramp(search: Search) -> None:
    """Descend from everything, then from perturbations of the best, until too many in a row were in vain."""
    best, idle = None, 0
    active = np.ones(search.screened.requirements.groups, dtype=bool)
    while not search.done and idle <= search.budget.rounds:
        found = _descend(search, active)
        if found is not None and (best is None or found.loss < best.loss - BETTER):
            best, idle = found, 0
        if best is None:
            return
        idle += 1
        active = _flip_some(best.kept, search.rng)


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
