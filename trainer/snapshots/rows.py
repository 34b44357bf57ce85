"""Kept samples in host memory, and how they become batches again; they are gathered only as far as they are run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.snapshots.batches import Batch, put_together


@dataclass(frozen=True, eq=False)
class Cluster:
    """Rows of one batch that were chosen together: their tensors, the batch's form and size, and a lot in [0, 1).

    Rows with the same key can be stacked: the same form, shapes and dtypes. `numbers` [count] are by what the caller
    knows them, where there is such a thing.
    """

    leaves: tuple[Tensor, ...]
    form: Any
    total: int
    lot: float
    numbers: NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.leaves[0])

    @property
    def nbytes(self) -> int:
        """What they take in memory."""
        return sum(leaf.numel() * leaf.element_size() for leaf in self.leaves)

    @cached_property
    def key(self) -> str:
        """What rows have to have in common."""
        return repr((self.form, [(tuple(leaf.shape[1:]), leaf.dtype) for leaf in self.leaves]))

    def take(self, chosen: NDArray[np.int64]) -> "Cluster":
        """A copy of some of the rows: later changes of the batch in place do not matter."""
        index = torch.from_numpy(chosen)
        with torch.no_grad():
            leaves = tuple(leaf.detach()[index.to(leaf.device)] for leaf in self.leaves)
        return replace(self, leaves=leaves, numbers=None if self.numbers is None else self.numbers[chosen])

    def copy(self) -> "Cluster":
        """A copy of all rows."""
        return replace(self, leaves=tuple(leaf.detach().clone() for leaf in self.leaves))

    def on_host(self) -> "Cluster":
        """The same in host memory."""
        return replace(self, leaves=tuple(leaf.to("cpu") for leaf in self.leaves))

    def contents(self) -> Iterator[tuple[str | bytes, ...]]:
        """What tells each row from other ones."""
        parts = [_bytes(leaf) for leaf in self.leaves]
        for number in range(self.count):
            yield (self.key, *(part[number].tobytes() for part in parts))


def _bytes(leaf: Tensor) -> NDArray[np.uint8]:
    """A tensor's memory, row by row [n, bytes]."""
    return np.asarray(leaf.contiguous().reshape(len(leaf), -1).view(torch.uint8).numpy())


class Rows:
    """Kept samples, numbered from 0; they are never changed, and stay in host memory until `batches` stacks them.

    Row number n is row `index[n]` of cluster `which[n]`. `largest` is how many the loop puts into a batch at most: so
    many fit into the device's memory.
    """

    def __init__(
        self, clusters: Sequence[Cluster], which: NDArray[np.int64], index: NDArray[np.int64], largest: int
    ) -> None:
        self._clusters, self._which, self._index, self.largest = clusters, which, index, largest

    @classmethod
    def of(cls, clusters: Sequence[Cluster], largest: int, *, once: bool) -> "Rows":
        """All rows of clusters, equal ones only `once`."""
        counts = [cluster.count for cluster in clusters]
        which = np.repeat(np.arange(len(clusters)), counts)
        index = np.concatenate([np.arange(0), *(np.arange(count) for count in counts)])
        every = cls(clusters, which, index, largest)
        if not once:
            return every
        contents = (content for cluster in clusters for content in cluster.contents())
        return every.take(list({content: number for number, content in enumerate(contents)}.values()))

    def __len__(self) -> int:
        return len(self._which)

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> "Rows":
        """Only these, numbered anew."""
        chosen = np.asarray(numbers, np.int64)
        return Rows(self._clusters, self._which[chosen], self._index[chosen], self.largest)

    def number(self, row: int) -> int | None:
        """By what the caller knows a row, where there is such a thing."""
        numbers = self._clusters[self._which[row]].numbers
        return None if numbers is None else int(numbers[self._index[row]])

    def content(self, row: int) -> tuple[str | bytes, ...]:
        """What tells a row from other ones."""
        return next(self._clusters[self._which[row]].take(self._index[[row]]).contents())

    def sample(self, row: int) -> Batch:
        """A copy of a row, as a batch of one."""
        return self._stacked(np.array([row]), torch.device("cpu"))

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Batches of at most `size` rows of equal shapes on `device`, each with its row numbers.

        The order is always the same.
        """
        groups: dict[str, list[int]] = {}
        for number, which in enumerate(self._which.tolist()):
            groups.setdefault(self._clusters[which].key, []).append(number)
        for numbers in groups.values():
            for start in range(0, len(numbers), size):
                chosen = np.array(numbers[start : start + size], np.int64)
                yield chosen, self._stacked(chosen, device)

    def _stacked(self, numbers: NDArray[np.int64], device: torch.device) -> Batch:
        which, index = self._which[numbers], self._index[numbers]
        order = np.argsort(which, kind="stable")  # rows of one cluster are copied at once
        starts = np.flatnonzero(np.diff(which[order], prepend=-1))
        parts = [(self._clusters[which[part[0]]], index[part]) for part in np.split(order, starts[1:])]
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        first, leaves = parts[0][0], []
        for leaf in range(len(first.leaves)):
            gathered = torch.cat([cluster.leaves[leaf][torch.from_numpy(rows)] for cluster, rows in parts])
            leaves.append(gathered[back].to(device))
        return put_together(first.form, leaves)
