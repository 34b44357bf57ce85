"""Kept samples in host memory, and how they become batches again; they are gathered only as far as they are run."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.samples.batches import Batch
from trainer.samples.columns import Column
from trainer.samples.forms import Leaf, joined, kind_of, put_together, stacked

MOST_GATHERED = 8_000_000
"""Bytes of rows that are gathered to be run several times."""

SCATTERED = 4
"""Rows of a cluster, on average: where there are fewer, they are copied one by one."""


@dataclass(frozen=True, eq=False)
class Cluster:
    """Rows of one batch that were chosen together: their leaves, the batch's form and size, and a lot in [0, 1).

    Rows with the same key can be stacked: the same form, shapes and dtypes. `numbers` [count] are by what the caller
    knows them, where there is such a thing.
    """

    leaves: tuple[Leaf, ...]
    form: Any
    total: int
    lot: float
    numbers: NDArray[np.int64] | None = None

    @cached_property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.leaves[0])

    @cached_property
    def nbytes(self) -> int:
        """What they take in memory."""
        return sum(leaf.nbytes for leaf in self.leaves)

    @cached_property
    def key(self) -> Hashable:
        """What rows have to have in common."""
        return kind_of(self.form), *map(_kind, self.leaves)

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
        if all(leaf.device.type == "cpu" for leaf in self.leaves):
            return self
        return replace(self, leaves=tuple(leaf.to("cpu") for leaf in self.leaves))

    def contents(self) -> Iterator[tuple[str | bytes, ...]]:
        """What tells each row from other ones."""
        kind, parts = repr(self.key), [_bytes(leaf) for leaf in self.leaves]
        for number in range(self.count):
            yield (kind, *(part[number] for part in parts))


def _kind(leaf: Leaf) -> tuple[Hashable, ...]:
    """What leaves have to have in common to be joined."""
    return (leaf.key,) if isinstance(leaf, Column) else (tuple(leaf.shape[1:]), leaf.dtype)


def _copied(leaf: Leaf, rows: NDArray[np.int64]) -> Leaf:
    """A copy of these rows: what follows one upon another is copied as a whole."""
    first, last = int(rows[0]), int(rows[-1])
    if isinstance(leaf, Tensor) and last - first == len(rows) - 1 and (np.diff(rows) == 1).all():
        return leaf[first : last + 1].clone()
    return leaf[torch.from_numpy(rows)]


def _bytes(leaf: Leaf) -> Sequence[bytes]:
    """What tells rows from one another: a tensor's memory, row by row."""
    if isinstance(leaf, Column):
        return leaf.contents()
    memory = leaf.contiguous().reshape(len(leaf), -1).view(torch.uint8).numpy()
    return [row.tobytes() for row in memory]


class Rows:
    """Kept samples, numbered from 0; they are never changed, and stay in host memory until `batches` stacks them.

    Row number n is row `index[n]` of cluster `which[n]`. `largest` is how many the loop puts into a batch at most: so
    many fit into the device's memory.
    """

    def __init__(
        self,
        clusters: Sequence[Cluster],
        which: NDArray[np.int64],
        index: NDArray[np.int64],
        largest: int,
        kinds: NDArray[np.int64],
    ) -> None:
        self._clusters, self._which, self._index, self.largest = clusters, which, index, largest
        self._kinds = kinds  # a number for each cluster: those of one number can be stacked

    @classmethod
    def of(cls, clusters: Sequence[Cluster], largest: int, *, once: bool) -> "Rows":
        """All rows of clusters, equal ones only `once`."""
        counts = np.array([cluster.count for cluster in clusters], np.int64)
        which = np.repeat(np.arange(len(clusters)), counts)
        index = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        known: dict[Hashable, int] = {}
        kinds = np.array([known.setdefault(cluster.key, len(known)) for cluster in clusters], np.int64)
        every = cls(clusters, which, index, largest, kinds)
        if not once:
            return every
        contents = (content for cluster in clusters for content in cluster.contents())
        return every.take(list({content: number for number, content in enumerate(contents)}.values()))

    def __len__(self) -> int:
        return len(self._which)

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> "Rows":
        """Only these, numbered anew."""
        chosen = np.asarray(numbers, np.int64)
        return Rows(self._clusters, self._which[chosen], self._index[chosen], self.largest, self._kinds)

    @property
    def alike(self) -> bool:
        """Whether all can be stacked with one another, so that batches of them come in their order."""
        return len(np.unique(self._kinds[self._which])) <= 1

    def number(self, row: int) -> int | None:
        """By what the caller knows a row, where there is such a thing."""
        numbers = self._clusters[self._which[row]].numbers
        return None if numbers is None else int(numbers[self._index[row]])

    def content(self, row: int) -> tuple[str | bytes, ...]:
        """What tells a row from other ones."""
        return next(self._clusters[self._which[row]].take(self._index[[row]]).contents())

    def whole(self, device: torch.device) -> Batch | None:
        """A batch as the loop composed it, if all rows of one are there."""
        found = next((cluster for cluster in self._clusters if cluster.count == cluster.total), None)
        return None if found is None else put_together(found.form, [leaf.to(device) for leaf in found.leaves])

    def sample(self, row: int) -> Batch:
        """A copy of a row, as a batch of one."""
        return self._stacked(np.array([row]), torch.device("cpu"))

    def together(self) -> "Rows":
        """The same, gathered into one cluster of each kind if they are small: running them again costs less."""
        which, rows = np.unique(self._which, return_counts=True)
        own = [self._clusters[number] for number in which.tolist()]
        if sum(count * one.nbytes / one.count for one, count in zip(own, rows.tolist(), strict=True)) > MOST_GATHERED:
            return self
        clusters, places, index = list[Cluster](), self._which.copy(), self._index.copy()
        for numbers in self._alike():
            leaves, form = self._gathered(numbers)
            told = self._numbers(numbers)
            places[numbers], index[numbers] = len(clusters), np.arange(len(numbers))
            clusters.append(Cluster(tuple(leaves), form, len(numbers), 0.0, told))
        return Rows(clusters, places, index, self.largest, np.arange(len(clusters)))

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Batches of at most `size` rows of equal shapes on `device`, each with its row numbers.

        The order is always the same.
        """
        for numbers in self._alike():
            for start in range(0, len(numbers), size):
                chosen = numbers[start : start + size]
                yield chosen, self._stacked(chosen, device)

    def _alike(self) -> Iterator[NDArray[np.int64]]:
        """The numbers of rows that can be stacked with one another, in the order in which their kinds come up."""
        kind = self._kinds[self._which]
        first = np.unique(kind, return_index=True)[1]
        return (np.flatnonzero(kind == kind[at]) for at in np.sort(first))

    def _stacked(self, numbers: NDArray[np.int64], device: torch.device) -> Batch:
        leaves, form = self._gathered(numbers)
        return put_together(form, [leaf.to(device) for leaf in leaves])

    def _gathered(self, numbers: NDArray[np.int64]) -> tuple[list[Leaf], Any]:
        """Copies of rows that can be stacked, leaf by leaf, and their form."""
        which, index = self._which[numbers], self._index[numbers]
        form, count = self._clusters[which[0]].form, len(self._clusters[which[0]].leaves)
        if (which == which[0]).all():
            return [_copied(leaf, index) for leaf in self._clusters[which[0]].leaves], form
        order = np.argsort(which, kind="stable")
        starts = np.flatnonzero(np.diff(which[order], prepend=-1))
        if SCATTERED * len(starts) > len(numbers):
            leaves, rows = [self._clusters[number].leaves for number in which.tolist()], index.tolist()
            return [stacked([own[leaf] for own in leaves], rows) for leaf in range(count)], form
        split = np.split(order, starts[1:])  # rows of one cluster are copied at once
        parts = [(self._clusters[which[part[0]]].leaves, torch.from_numpy(index[part])) for part in split]
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        return [joined([leaves[leaf][at] for leaves, at in parts])[back] for leaf in range(count)], form

    def _numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """By what the caller knows these, where each is known."""
        if any(self._clusters[number].numbers is None for number in np.unique(self._which[rows]).tolist()):
            return None
        return np.array([self.number(row) for row in rows.tolist()], np.int64)
