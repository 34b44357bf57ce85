"""L-BFGS inside a box for many variables: SciPy's L-BFGS-B takes microseconds for each of them before it begins.

The two-loop recursion (Nocedal, 1980) over the variables that the box does not hold, and steps that are clipped into
the box and halved until they descend (projected quasi-Newton; Bertsekas, 1982; Schmidt, Kim and Sra, 2011).
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from solver_service.milp.core.problem import Array, Mask

MEMORY = 12
"""Pairs of steps and changes of the slope that are kept."""
ENOUGH, CURVED = 1e-4, 1e-10
"""The part of the slope's promise that a step has to keep (Armijo), and the curvature that a pair has to have."""
SHORTEST, LONGEST = 0.1, 0.5
"""A step that does not descend is shortened to between these parts."""
TRIES = 20
FLAT, STILL = 1e-10, 1e-11
"""A slope, and a gain as a part of the value (of 1 below that), that are none."""

Function = Callable[[Array], tuple[float, Array]]


def descend(function: Function, begin: Array, lower: Array, upper: Array, *, steps: int) -> Array:
    """Where so many steps lead from a point [size] of the box, fewer if they gain nothing any more.

    `function` gives a value and its slope [size]; it may end the descent by an exception of its own.
    """
    here = np.clip(begin, lower, upper)
    value, slope = function(here)
    pairs: deque[tuple[Array, Array]] = deque(maxlen=MEMORY)
    for _ in range(steps):
        free = ~(((here <= lower) & (slope > 0)) | ((here >= upper) & (slope < 0)))
        steepest = np.where(free, slope, 0.0)
        if np.abs(steepest).max(initial=0.0) <= FLAT:
            break
        way = -_curved(steepest, free, pairs)
        if not way @ steepest < 0:
            pairs.clear()
            way = -steepest
        found = _shortened(function, here, value, slope, way if pairs else way / np.linalg.norm(way), (lower, upper))
        if found is None and pairs:
            pairs.clear()
            continue
        if found is None:
            break
        there, reached, other = found
        step, change = there - here, other - slope
        if step @ change > CURVED * (change @ change):
            pairs.append((step, change))
        gain = value - reached
        here, value, slope = there, reached, other
        if gain <= STILL * max(abs(value), 1.0):
            break
    return here


def _curved(slope: Array, free: Mask, pairs: deque[tuple[Array, Array]]) -> Array:
    """The slope times the inverse curvature that the pairs tell of, over the free variables alone."""
    found, whole = slope.copy(), bool(free.all())
    used: list[tuple[Array, Array, float, float]] = []
    for step, change in reversed(pairs):
        kept = change if whole else change * free
        curvature = float(step @ kept)
        if curvature > CURVED * float(kept @ kept):
            pull = float(step @ found) / curvature
            found -= pull * kept
            used.append((step, kept, curvature, pull))
    if not used:
        return found
    _, newest, curvature, _ = used[0]
    found *= curvature / float(newest @ newest)
    for step, kept, curvature, pull in reversed(used):
        more = pull - float(kept @ found) / curvature
        found += more * (step if whole else step * free)
    return found


def _shortened(
    function: Function, here: Array, value: float, slope: Array, way: Array, box: tuple[Array, Array]
) -> tuple[Array, float, Array] | None:
    """The first point along a way, clipped into the box, that descends: it, its value and its slope; None if none."""
    length = 1.0
    for _ in range(TRIES):
        there = np.clip(here + length * way, *box)
        promised = float(slope @ (there - here))
        if promised >= 0:
            return None
        reached, other = function(there)
        if reached <= value + ENOUGH * promised:
            return there, reached, other
        # Where a parabola through the two values and the slope is least.
        bend = 2 * (reached - value - promised)
        part = -promised / bend if np.isfinite(bend) and bend > 0 else SHORTEST
        length *= float(np.clip(part, SHORTEST, LONGEST))
    return None
