"""Constraints on weights, kept by the live model: as its parameters will stand, not as the solver sees them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from shared.constraints import ON_WEIGHTS, level_values, nearest_multiple, violations
from shared.contracts import Constraint
from shared.snapshot import FloatArray
from trainer.model.blocks import Values, parameters_by_name
from trainer.snapshots.captured import Captured

SIGNS = ("nonnegative", "monotone")
ROUNDED = ("grid", "levels")
MOST_MULTIPLES = 1 << 16
"""Of a grid's multiples that are looked at: float32 holds more, no type of 16 bits does."""


def broken(constraints: Sequence[Constraint], captured: Captured, model: nn.Module, values: Values) -> list[str]:
    """The constraints on weights that these values break once they are written into the model."""
    name = captured.block.parameters()["weight"]
    if not constraints or name not in values:
        return []
    written = _held(values[name], parameters_by_name(model)[name].dtype)
    weight = written.reshape(captured.weight.shape)
    return [
        f"constraints.{index} ({constraint.type})"
        for index, constraint in enumerate(constraints)
        if constraint.type in ON_WEIGHTS and not _keeps(constraint, captured, weight)
    ]


def unkept(
    constraints: Sequence[Constraint], captured: Captured, model: nn.Module, *, radius: float, project_above: int
) -> tuple[int, str] | None:
    """The place of the first constraint that jobs on a layer cannot keep, with the reason and the cure; None if all."""
    dtype = parameters_by_name(model)[captured.block.parameters()["weight"]].dtype
    for index, constraint in enumerate(constraints):
        if constraint.type not in ON_WEIGHTS:
            continue
        why = _projected(constraint, captured, project_above) or _folded(constraint, captured)
        why = why or _rounded(constraint, captured, dtype, radius)
        if why is not None:
            return index, f"layer {captured.block.layer.name!r} cannot keep {constraint.type}: {why}"
    return None


def _keeps(constraint: Constraint, captured: Captured, weight: FloatArray) -> bool:
    """Whether weights keep a constraint; never one that names rows or columns that are not there."""
    for numbers, size in zip((constraint.classes, constraint.indices), weight.shape, strict=True):
        if numbers is not None and not (numbers and all(0 <= number < size for number in numbers)):
            return False
    return not violations([constraint], captured.snapshot, weight, None)


def _projected(constraint: Constraint, captured: Captured, project_above: int) -> str | None:
    if captured.directions is None or (constraint.type == "movement_cost" and constraint.indices is None):
        return None
    return (
        f"its {captured.weight.shape[1]} inputs are more than {project_above}, so that jobs move it along a few "
        "directions and not by single weights; choose another `layer`, or leave the constraint out of `constraints`"
    )


def _folded(constraint: Constraint, captured: Captured) -> str | None:
    """What a normalisation behind the layer, which is sent as part of its weights, does to them."""
    scale = captured.scale
    if scale is None:
        return None
    rows = range(len(scale)) if constraint.classes is None else constraint.classes
    meant = np.array([scale[row] for row in rows if 0 <= row < len(scale)])
    if constraint.type in ROUNDED:
        why = "the BatchNorm behind it scales its weights"
    elif constraint.type in SIGNS and (meant <= 0).any():
        why = "the BatchNorm behind it turns the signs of its weights, or has a weight of 0"
    elif constraint.type == "max_nonzero" and (meant == 0).any():
        why = "the BatchNorm behind it has a weight of 0"
    else:
        return None
    return f"{why}; choose a `layer` without BatchNorm behind it, or leave the constraint out of `constraints`"


def _rounded(constraint: Constraint, captured: Captured, dtype: torch.dtype, radius: float) -> str | None:
    """Whether values that are asked for are none of the parameter's type."""
    if constraint.type == "levels":
        asked = level_values(constraint.levels or ())
    elif constraint.type == "grid" and constraint.value > 0:
        reach = float(np.abs(captured.weight).max(initial=0.0)) + radius
        count = 1 + int(min(MOST_MULTIPLES, reach / constraint.value))
        asked = nearest_multiple(np.arange(1, count + 1) * constraint.value, np.full(count, constraint.value))
    else:
        return None
    if np.array_equal(_held(asked, dtype), asked):
        return None
    return (
        f"its weights are {str(dtype).removeprefix('torch.')}, which rounds off what is asked for; hold the layer in "
        "float32, or leave the constraint out of `constraints`"
    )


def _held(values: FloatArray, dtype: torch.dtype) -> FloatArray:
    """What a parameter of this type makes of values."""
    return np.asarray(torch.from_numpy(np.ascontiguousarray(values)).to(dtype).float().numpy())
