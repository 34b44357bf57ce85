"""Weights on zeros, grids or levels: round the block's weights a part at a time, and let the others make up for it."""

from collections.abc import Callable

import numpy as np

from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array
from solver_service.milp.network.joint.descent import Descender, Descent
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.keeping import Keeper

PARTS = (0.5, 0.8, 1.0)
"""Shares of the weights that are rounded by and by, the nearest to where they have to go first."""
EFFORT = 40


def fit(evaluate: Evaluator, keeper: Keeper, found: Descent, over: Callable[[], bool]) -> Descent:
    """What keeps the constraints on weights near a descent's end; everything that is not rounded descends again."""
    variables = found.variables
    for part in PARTS:
        held = rounded(evaluate.network, evaluate.scaling, keeper, variables)
        away = np.abs(held - variables)
        moving = np.flatnonzero(_pinned(evaluate, keeper, held))
        pinned = moving[np.argsort(away[moving], kind="stable")[: int(np.ceil(part * moving.size))]]
        lower, upper = evaluate.lower.copy(), evaluate.upper.copy()
        lower[pinned] = upper[pinned] = held[pinned]
        begin = np.clip(variables, lower, upper)
        found = Descender(evaluate.within(lower, upper), over)(begin, effort=EFFORT)
        variables = found.variables
    return found


def rounded(network: Network, scaling: Scaling, keeper: Keeper, variables: Array) -> Array:
    """The variables whose weights keep the constraints, as near as rounding brings them."""
    moved = keeper.fitted(network.moved(scaling.step(variables)))
    return scaling.variables(network.step_to(moved))


def _pinned(evaluate: Evaluator, keeper: Keeper, held: Array) -> Array:
    """Which variables [size] constraints hold where they are: those on a grid, and zeros that have to be."""
    scaling = evaluate.scaling
    pins = keeper.pins(keeper.fitted(evaluate.network.moved(scaling.step(held))))
    whole = np.zeros(scaling.weight_count, dtype=bool)
    whole[: pins.size] = pins.ravel()
    return np.asarray(whole[scaling.free])
