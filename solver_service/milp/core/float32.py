"""Float32 numbers that stay inside a box, whatever the rounding."""

import numpy as np

from shared.snapshot import FloatArray
from solver_service.milp.core.problem import Array, Mask

STEPS = 4
"""How many neighbouring floats are tried on the way back into the box."""


def round_into_box(
    center: FloatArray, step: Array, radius: Array, *, floor: Array | float = -np.inf, ceiling: Array | float = np.inf
) -> FloatArray:
    """`center + step` as float32 with `|result - center| <= radius` in float64 arithmetic, from floor to ceiling.

    The center, moved to the floor or the ceiling (0 or none) where it is beyond, has to be inside the box.
    """
    exact = center.astype(np.float64)
    inner = np.clip(center, floor, ceiling).astype(np.float32)
    with np.errstate(over="ignore"):
        found = (exact + step).astype(np.float32)
    for _ in range(STEPS):
        found = np.where(_outside(found, exact, radius, floor, ceiling), np.nextafter(found, inner), found)
    return np.where(_outside(found, exact, radius, floor, ceiling), inner, found).astype(np.float32)


def _outside(found: FloatArray, exact: Array, radius: Array, floor: Array | float, ceiling: Array | float) -> Mask:
    return np.asarray(~((np.abs(found - exact) <= radius) & (found >= floor) & (found <= ceiling)))
