"""Which numbers may be kept: a record holds finite ones alone, and a counter takes none that could ever fill it up."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, Field

MOST = 2.0**53
"""No single amount adds more to a counter: a float64 overflows only after 10^292 of them."""

Moment = Annotated[float, Field(ge=0, lt=253_402_300_800, allow_inf_nan=False)]
"""Seconds since 1970 for which the calendar has a date, up to the year 9999: any other time is none."""


def finite(value: object) -> bool:
    """Whether every number in a model, a mapping, a list or by itself is finite."""
    match value:
        case float():
            return math.isfinite(value)
        case BaseModel():
            return all(finite(part) for _, part in value)
        case str() | bytes():
            return True
        case Mapping():
            return all(map(finite, value.values()))
        case Iterable():
            return all(map(finite, value))
    return True


def clamped(amount: float) -> float:
    """The nearest amount that a counter takes; nothing for what is not a number."""
    return 0.0 if math.isnan(amount) else max(-MOST, min(MOST, amount))
