"""Kept samples in host memory, and how they become batches again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.snapshots.batches import Batch, put_together


@dataclass(frozen=True, eq=False)
class Row:
    """One sample: its tensors (without the leading dimension), and the form of the batch that it came in.

    Rows with the same key can be stacked: the same form, shapes and dtypes.
    """

    leaves: tuple[Tensor, ...]
    form: Any
    key: str

    def content(self) -> bytes:
        """What tells it from other rows."""
        return self.key.encode() + b"".join(bytes(_raw(leaf)) for leaf in self.leaves)


def _raw(leaf: Tensor) -> NDArray[np.uint8]:
    return np.asarray(leaf.contiguous().reshape(-1).view(torch.uint8).numpy())


class Rows:
    """Kept samples, numbered from 0; they are never changed, and stay in host memory until `batches` stacks them.

    `largest` is how many the loop puts into a batch at most: so many fit into the device's memory.
    """

    def __init__(self, rows: Sequence[Row], largest: int) -> None:
        self._rows = tuple(rows)
        self.largest = largest

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> "Rows":
        """Only these, numbered anew."""
        return Rows([self._rows[number] for number in numbers], self.largest)

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Batches of at most `size` rows of equal shapes on `device`, each with its row numbers.

        The order is always the same.
        """
        groups: dict[str, list[int]] = {}
        for number, row in enumerate(self._rows):
            groups.setdefault(row.key, []).append(number)
        for numbers in groups.values():
            for start in range(0, len(numbers), size):
                chosen = numbers[start : start + size]
                yield np.array(chosen, np.int64), self._stacked(chosen, device)

    def _stacked(self, numbers: Sequence[int], device: torch.device) -> Batch:
        rows = [self._rows[number] for number in numbers]
        leaves = [torch.stack(leaf).to(device) for leaf in zip(*(row.leaves for row in rows), strict=True)]
        return put_together(rows[0].form, leaves)
