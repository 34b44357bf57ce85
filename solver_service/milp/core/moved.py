"""Weights as a solve takes them to begin from and hands them out: a block's, and those of a tail layer that moved."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.snapshot import FloatArray


@dataclass(frozen=True, eq=False)
class Moved:
    """Float32 weight [h, d] and bias [h] (None without one) of a block.

    `tail` holds the tail layers that may move by their wire names (`tail.I.weight`, `tail.I.bias`).
    """

    weight: FloatArray
    bias: FloatArray | None
    tail: Mapping[str, FloatArray] = field(default_factory=dict)
