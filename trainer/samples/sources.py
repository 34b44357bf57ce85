"""Where samples come from: tensors in memory, or the batches that a loop is going to draw."""

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from trainer.errors import DataError
from trainer.samples.batches import Array, parts_of
from trainer.samples.reservoir import Reservoir, Split

Inputs = Array | tuple[Array, ...]
Data = TensorDataset | tuple[Inputs, Array] | tuple[Inputs, Array, Array] | tuple[Inputs, Array, Array | None, Array]
"""Inputs and targets, with weights and groups behind or not."""


def reservoir_of(data: Data | None, split: Split | None, *, keep: int, keep_mb: float, seed: int) -> Reservoir:
    """A reservoir of the tensors or arrays given, or of the batches to come; DataError, with the cure, for a loader."""
    if data is None:
        return Reservoir(keep=keep, keep_mb=keep_mb, split=split, seed=seed)
    if isinstance(data, TensorDataset) and len(data.tensors) in (2, 3):
        return Reservoir.of_tensors(*data.tensors, keep=keep, keep_mb=keep_mb, seed=seed)
    parts = _parts(data) if isinstance(data, tuple) else ()
    if len(parts) in (2, 3, 4) and isinstance(parts[1], Tensor | np.ndarray):
        return Reservoir.of_tensors(*parts, keep=keep, keep_mb=keep_mb, seed=seed, arrays=True)
    kind = "a DataLoader" if isinstance(data, DataLoader) else f"a {type(data).__name__}"
    raise DataError(
        f"data is {kind}; give tensors or arrays (inputs, targets), or leave it out and loop over "
        "tunneller.watch(loader): then jobs see what the loop trains on"
    )


def _parts(data: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs, targets, and what stands behind them; of a named tuple as its fields say."""
    found = parts_of(data) if hasattr(data, "_fields") else None
    if found is None:
        return data
    inputs = found.inputs[0] if len(found.inputs) == 1 else found.inputs
    return inputs, found.targets, found.weights, found.groups
