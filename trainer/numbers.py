"""Reads a number of any library as a plain float, so that what users hand over warns of nothing in our code."""

from typing import Any


def as_float(value: Any) -> float:
    """The number that a float, a tensor (with a gradient or without) or an array of one holds.

    Raises anything for what is none.
    """
    plain = value.detach() if hasattr(value, "detach") else value
    return float(plain.item() if hasattr(plain, "item") else plain)
