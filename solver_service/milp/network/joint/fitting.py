"""Weights on zeros, grids or levels: round the block's weights a part at a time, and let the others make up for it.

`loosened` is a large neighbourhood search (Shaw, 1998): some of the rounded weights are let go and rounded anew.
"""

from collections.abc import Callable

import numpy as np

from solver_service.milp.core.problem import Array, Index
from solver_service.milp.network.joint.descent import Descender, Descent
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.keeping import Keeper

PARTS = (0.5, 0.8, 1.0)
"""Shares of the weights that are rounded by and by, the nearest to where they have to go first."""
EFFORT = 40
LOOSE = (0.03, 0.1, 0.3)
"""Shares of the rounded weights that are let go at once, or of the units whose weights are."""
NEAR = 1e-6
"""Within this part of a unit of where it has to go, a weight is there."""


def fit(evaluate: Evaluator, keeper: Keeper, found: Descent, over: Callable[[], bool]) -> Descent:
    """What keeps the constraints on weights near a descent's end; everything that is not rounded descends again."""
    for part in PARTS:
        if over():
            break
        found = settled(evaluate, keeper, found.variables, over, part)
    return found


def settled(
    evaluate: Evaluator, keeper: Keeper, variables: Array, over: Callable[[], bool], part: float = 1.0
) -> Descent:
    """Hold what is rounded, and that part of all else that has to be, the nearest first; the others descend."""
    held = rounded(evaluate.scaling, keeper, variables)
    away = np.abs(held - variables)
    moving = np.flatnonzero(_pinned(evaluate.scaling, keeper, held))
    nearest = moving[np.argsort(away[moving], kind="stable")]
    there = int(np.count_nonzero(away[moving] <= NEAR))
    return _holding(evaluate, nearest[: there + int(np.ceil(part * (moving.size - there)))], held, variables, over)


def loosened(
    evaluate: Evaluator, keeper: Keeper, variables: Array, over: Callable[[], bool], rng: np.random.Generator
) -> Descent:
    """Let some rounded weights go, drawn one by one or a unit at a time; all that is free descends, and is rounded."""
    held = rounded(evaluate.scaling, keeper, variables)
    pinned = np.flatnonzero(_pinned(evaluate.scaling, keeper, held))
    share = float(rng.choice(LOOSE))
    if rng.random() < 0.5:
        loose = rng.random(pinned.size) < share
    else:
        units = evaluate.scaling.units(pinned)
        loose = np.isin(units, np.flatnonzero(rng.random(int(units.max(initial=0)) + 1) < share))
    return fit(evaluate, keeper, _holding(evaluate, pinned[~loose], held, held, over), over)


def rounded(scaling: Scaling, keeper: Keeper, variables: Array) -> Array:
    """The variables whose weights keep the constraints, as near as rounding brings them."""
    block = scaling.weights(variables)[0][:, :-1]
    return scaling.with_block(variables, keeper.nearest(block.astype(np.float32)).astype(np.float64))


def _holding(evaluate: Evaluator, pinned: Index, held: Array, variables: Array, over: Callable[[], bool]) -> Descent:
    """Descend from variables with some of them pinned where they are held."""
    lower, upper = evaluate.lower.copy(), evaluate.upper.copy()
    lower[pinned] = upper[pinned] = held[pinned]
    return Descender(evaluate.within(lower, upper), over)(np.clip(variables, lower, upper), effort=EFFORT)


def _pinned(scaling: Scaling, keeper: Keeper, held: Array) -> Array:
    """Which variables [size] constraints hold where they are: those on a grid, and zeros that have to be."""
    pins = keeper.pins(scaling.weights(held)[0][:, :-1].astype(np.float32))
    whole = np.zeros(scaling.weight_count, dtype=bool)
    whole[: pins.size] = pins.ravel()
    return np.asarray(whole[scaling.free])
