"""Weights as a solve takes them to begin from and hands them out: a block's, and those of a tail layer that moved."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shared.constraints import movement_cost
from shared.contracts import JobSpec
from shared.snapshot import FloatArray, Snapshot, TailLayer


@dataclass(frozen=True, eq=False)
class Moved:
    """Float32 weight [h, d] and bias [h] (None without one) of a block.

    `tail` holds the tail layers that may move by their wire names (`tail.I.weight`, `tail.I.bias`).
    """

    weight: FloatArray
    bias: FloatArray | None
    tail: Mapping[str, FloatArray] = field(default_factory=dict)


def tail_with(snapshot: Snapshot, moved: Moved) -> tuple[TailLayer, ...]:
    """The snapshot's tail, with the layers that moved replaced."""
    return tuple(
        replace(
            layer,
            weight=moved.tail.get(f"tail.{index}.weight", layer.weight),
            bias=moved.tail.get(f"tail.{index}.bias", layer.bias),
        )
        for index, layer in enumerate(snapshot.tail)
    )


def value_of(snapshot: Snapshot, spec: JobSpec, moved: Moved) -> float:
    """What the job minimises at these weights, those of the tail and the cost of movement included."""
    value = spec.goal.value(snapshot, moved.weight, moved.bias, tail_with(snapshot, moved))
    return value + movement_cost(spec.constraints, snapshot, moved.weight)
