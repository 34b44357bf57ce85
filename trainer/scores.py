"""What a score is: a number of any library, of which the lower or the higher is the better one."""

import math
from typing import Any, Literal

Mode = Literal["min", "max"]


def as_float(value: Any) -> float:
    """The number that a float, a tensor (with a gradient or without) or an array of one holds.

    Raises anything for what is none.
    """
    plain = value.detach() if hasattr(value, "detach") else value
    return float(plain.item() if hasattr(plain, "item") else plain)


def improvement(before: float, after: float, mode: Mode) -> float:
    """How much better `after` is than `before`, in the metric's units: positive is better, NaN counts as worst."""
    if math.isnan(after):
        return -math.inf
    if math.isnan(before):
        return math.inf
    return 0.0 if after == before else (before - after if mode == "min" else after - before)
