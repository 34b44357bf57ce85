"""Where samples come from: tensors in memory, or the batches that a loop is going to draw."""

from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from trainer.errors import DataError
from trainer.snapshots.reservoir import Reservoir, Split

Inputs = Tensor | tuple[Tensor, ...]
Data = (
    TensorDataset | tuple[Inputs, Tensor] | tuple[Inputs, Tensor, Tensor] | tuple[Inputs, Tensor, Tensor | None, Tensor]
)
"""Inputs and targets, with weights and groups behind or not."""


def reservoir_of(data: Data | None, split: Split | None, *, keep: int, keep_mb: float, seed: int) -> Reservoir:
    """A reservoir of the tensors given, or of the batches to come; DataError, with the cure, for a loader."""
    if data is None:
        return Reservoir(keep=keep, keep_mb=keep_mb, split=split, seed=seed)
    if isinstance(data, TensorDataset) and len(data.tensors) in (2, 3):
        return Reservoir.of_tensors(*data.tensors, keep=keep, keep_mb=keep_mb, seed=seed)
    if isinstance(data, tuple) and len(data) in (2, 3, 4) and isinstance(data[1], Tensor):
        return Reservoir.of_tensors(*data, keep=keep, keep_mb=keep_mb, seed=seed)
    kind = "a DataLoader" if isinstance(data, DataLoader) else f"a {type(data).__name__}"
    raise DataError(
        f"data is {kind}; give tensors (inputs, targets), or leave it out and loop over tunneller.watch(loader): "
        "then jobs see what the loop trains on"
    )
