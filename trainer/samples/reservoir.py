"""Keeps a bounded, seeded sample of the batches that a training loop draws, in host memory and as they were."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import DataError
from trainer.samples.batches import Array, Batch, Split, as_tensors, parts_of, read_batch
from trainer.samples.columns import Columns
from trainer.samples.forms import take_apart
from trainer.samples.kinds import TargetKind
from trainer.samples.rows import Cluster, Rows

__all__ = ["Batch", "Reservoir", "Rows", "Split"]

Numbers = Tensor | NDArray[np.int64] | Sequence[int]
"""By what a caller knows each sample of a batch [n]."""
MIB = 1024 * 1024
DEFAULT_BATCH = 256
"""Of data that is in memory as a whole."""
PENDING_BYTES = 8 * MIB
"""Chosen rows that are still on a device are fetched when they are so large: a fetch makes the device wait."""
CLUSTER = 16
"""Rows that are chosen together at least (where a batch has so many): copying them one by one would cost more."""


def _share(total: int, lot: float, rate: float) -> int:
    """How many of a batch's rows are kept at a rate: about rate x total, or now and then a cluster; never more at less.

    The lot decides alone, so that every batch has the same chance whatever came before it.
    """
    wanted, least = total * rate, min(total, CLUSTER)
    if wanted >= least:
        return int(wanted + lot)
    return least if lot < wanted / least else 0


class _Generation:
    """A uniform sample of the rows seen since it began, at most so many and so large, at a price that is hardly felt.

    Every row is kept with the same chance, the rate, which is halved as often as it takes. Rows are chosen by clusters
    of one batch, so that most batches are not even looked at: one that is costs a copy.
    """

    def __init__(self, most: int, most_bytes: float, generator: np.random.Generator, rate: float = 1.0) -> None:
        self._most, self._most_bytes, self._generator = most, most_bytes, generator
        self._began = self._rate = rate
        self.seen, self.size, self.bytes = 0, 0, 0
        self._clusters: list[Cluster] = []
        self._pending_bytes = 0

    @property
    def rate(self) -> float:
        """The rate for another one that will see as many rows: what would have to go again need not be copied."""
        row_bytes = self.bytes / max(self.size, 1)
        most = min(self._most, self._most_bytes / max(row_bytes, 1e-9))
        found = self._rate
        while found < 1 and 2 * found * self.seen <= most:
            found *= 2
        return found

    def is_as_good_as(self, last: "_Generation") -> bool:
        """Whether an epoch has come to its end, even if by chance it has given fewer rows; not one that broke off.

        Nor one that was much shorter than was foreseen.
        """
        return self.seen >= last.size and 2 * self._began * self.seen >= last.size

    def offer(self, count: int, read: Callable[[], Batch], numbers: Numbers | None = None) -> None:
        """See a batch of so many rows, known by these numbers, and copy some if it is its turn."""
        lot = self._generator.random()
        wanted = _share(count, lot, self._rate)
        found = take_apart(read()) if wanted else None
        self.seen += count  # of a batch that cannot be read nothing was seen
        if found is None:
            return
        leaves, form = found
        whole = Cluster(tuple(leaves), form, count, lot, None if numbers is None else _as_array(numbers))
        if whole.nbytes > whole.count * self._most_bytes:
            size = whole.nbytes / whole.count / MIB
            raise DataError(f"one sample takes {size:.3g} MiB, and keep_mb has no room for it; use a larger keep_mb")
        self._add(whole.copy() if wanted >= whole.count else whole.take(self._choice(whole.count, wanted)))
        self.fit(self._most_bytes)

    def fit(self, most_bytes: float) -> None:
        """Come down to so many bytes, and to the number of rows."""
        while self.size > self._most or self.bytes > most_bytes:
            self._halve()

    def _add(self, cluster: Cluster) -> None:
        self._clusters.append(cluster)
        self.size += cluster.count
        self.bytes += cluster.nbytes
        self._pending_bytes += 0 if cluster.leaves[0].device.type == "cpu" else cluster.nbytes
        if self._pending_bytes > PENDING_BYTES:
            self.fetch()

    def _choice(self, total: int, count: int) -> NDArray[np.int64]:
        return self._generator.choice(total, count, replace=False)

    def _halve(self) -> None:
        """Keep what would have been kept, had the rate been half from the beginning."""
        self._rate /= 2
        kept = []
        if len(self._clusters) == 1:  # a cluster that is too large by itself
            only = self._clusters.pop()
            kept = [only.take(self._choice(only.count, only.count // 2))] if only.count > 1 else []
        for cluster in self._clusters:
            wanted = _share(cluster.total, cluster.lot, self._rate)
            if wanted >= cluster.count:
                kept.append(cluster)
            elif wanted:
                kept.append(cluster.take(self._choice(cluster.count, wanted)))
        self._clusters = kept
        self.size = sum(cluster.count for cluster in kept)
        self.bytes = sum(cluster.nbytes for cluster in kept)

    def fetch(self) -> None:
        """Bring chosen rows to the host."""
        if not self._pending_bytes:
            return
        self._clusters = [cluster.on_host() for cluster in self._clusters]
        self._pending_bytes = 0

    def clusters(self) -> list[Cluster]:
        """All that is kept."""
        self.fetch()
        return list(self._clusters)


def _as_array(numbers: Numbers) -> NDArray[np.int64]:
    found = numbers.detach().cpu().numpy() if isinstance(numbers, Tensor) else np.asarray(numbers)
    return found.astype(np.int64)


def _check_numbers(numbers: Numbers, count: int, *, split: bool) -> None:
    """Raise DataError unless these are a whole number for each of so many samples, which `split` may have chosen."""
    try:
        found = numbers if isinstance(numbers, Tensor) else np.asarray(numbers)
    except ValueError as error:
        raise DataError("index is a list of lists; give a whole number for each sample of the batch") from error
    dtype = str(found.dtype).removeprefix("torch.")
    if found.ndim != 1 or not dtype.startswith(("int", "uint")):
        raise DataError(f"index is {dtype} {list(found.shape)}; give a whole number for each sample of the batch")
    if len(found) != count and split:
        raise DataError(
            f"index has {len(found)} numbers, and `split` gives {count} samples of this batch; give one for each of "
            "these, in their order: leave out the numbers of what `split` leaves out"
        )
    if len(found) != count:
        raise DataError(f"index has {len(found)} numbers for a batch of {count}; give one for each sample")


def _plain_count(batch: Any) -> int | None:
    """How many samples a pair or a triple of tensors has; None for other forms, which have to be read to be counted."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        return None
    for part in batch:  # as few words as possible: this is every batch
        if not isinstance(part, Tensor) or not part.ndim:
            return None
    return len(batch[0])


class Reservoir:
    """A seeded sample of the batches observed: at most `keep` samples of an epoch, at most `keep_mb` MiB in all.

    Where epochs are announced (`begin`) the rows of the last one stay until this one has given as many, and equal rows
    count as often as the loop drew them. Where they are not, several epochs may be in the sample: equal rows count
    once. Of a longer epoch between half of `keep` and all of it are kept. One that has given `keep` rows by a check
    (`mark`) begins anew there: a stream has but one.

    keep, keep_mb: how many samples, and how much memory; split: how a batch splits (`read_batch`); seed: of the choice.
    No global random state is touched, and batches are left as they are.
    """

    def __init__(self, *, keep: int = 4000, keep_mb: float = 256.0, split: Split | None = None, seed: int = 0) -> None:
        if keep < 1 or not keep_mb > 0:
            raise ValueError(f"keep is {keep} and keep_mb {keep_mb}; keep at least one sample in more than 0 MiB")
        self._keep, self._most_bytes, self._split = keep, keep_mb * MIB, split
        self._generator = np.random.default_rng(seed)
        self._last = self._now = _Generation(keep, self._most_bytes, self._generator)
        self._columns, self._announced = Columns(), False
        self._loader: object = None
        self._checked = False
        self._largest = 1
        self.kind: TargetKind | None = None
        """What targets have to have in common, once that is known; a batch with others is refused."""
        self.seen = 0
        self.weighs = False
        """Whether batches had a third part that was taken for weights, which nobody has said."""

    @classmethod
    def of_tensors(
        cls,
        inputs: Array | tuple[Array, ...],
        targets: Array,
        weights: Array | None = None,
        groups: Array | None = None,
        *,
        keep: int = 4000,
        keep_mb: float = 256.0,
        seed: int = 0,
        arrays: bool = False,
    ) -> "Reservoir":
        """A sample of data that is in memory as a whole; DataError where its parts are not equally long.

        `arrays` of numpy's are taken as well, which may be maps of files: the chosen rows alone are read.
        """
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        names = ["inputs" if len(args) == 1 else f"inputs[{index}]" for index in range(len(args))]
        named = [("targets", targets), *zip(names, args, strict=True)]
        more = {"weights": weights, "groups": groups}
        for name, part in (*named, *((name, part) for name, part in more.items() if part is not None)):
            taken = isinstance(part, Tensor) or (arrays and isinstance(part, np.ndarray))
            if not taken or part.ndim == 0:
                raise DataError(
                    f"data has {name} that are a {type(part).__name__}; give tensors, a row for each sample"
                )
            if len(part) != len(targets):
                raise DataError(f"data has {len(part):,} {name} and {len(targets):,} targets; give one for each sample")
        made = cls(keep=keep, keep_mb=keep_mb, seed=seed)
        made.begin()
        chosen = torch.from_numpy(np.sort(made._generator.permutation(len(targets))[:keep]))

        def kept(part: Array) -> Tensor:
            if isinstance(part, Tensor):
                return part[chosen.to(part.device)]
            found: Tensor = as_tensors(part[chosen.numpy()])
            return found

        first, wanted = tuple(map(kept, args)), kept(targets)
        by_name = {name: kept(part) for name, part in more.items() if part is not None}
        whole = (first, wanted, *by_name.values()) if groups is None else Batch(first, {}, wanted, **by_name)
        made.observe(whole, chosen)
        made.seen, made._largest, made.weighs = len(targets), DEFAULT_BATCH, False
        return made

    @property
    def size(self) -> int:
        """How many samples there are to draw from."""
        return self._larger.size

    @property
    def is_enough(self) -> bool:
        """Whether no more need be kept for now: a sample is full, or an epoch has passed."""
        return self.seen >= self._keep or (self._announced and self._last is not self._now)

    @property
    def _larger(self) -> _Generation:
        # An epoch that is over goes before the last one, even if by chance it has given fewer rows: a resumed run has
        # no last one.
        over = self._now.seen >= self._last.seen
        return self._now if over or self._now.size >= self._last.size else self._last

    def state_dict(self) -> dict[str, Any]:
        """Where the choice's random state is; kept samples are not in it."""
        return {"random": self._generator.bit_generator.state, "rate": self._now.rate}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Choose on from there: a new epoch gives the samples that it would have given without the break."""
        self._generator.bit_generator.state = state["random"]
        if not self._now.seen:
            rate = float(state.get("rate", 1.0))  # older releases wrote none
            self._last = self._now = _Generation(self._keep, self._most_bytes, self._generator, rate)

    def observe(self, batch: Any, numbers: Numbers | None = None) -> None:
        """Keep some of a batch; DataError, with the cure, if it cannot be split, or is of another `kind`.

        `numbers` are by what the caller knows each sample that is read of it: after `split`, where there is one.
        """
        count, read = self._counted(batch)
        if numbers is not None:
            _check_numbers(numbers, count, split=self._split is not None)
        self.seen += count
        self._largest = max(self._largest, count)
        self.weighs |= self._split is None and (parts := parts_of(batch)) is not None and parts.guessed
        self._now.offer(count, lambda: self._of_kind(read()), numbers)

    def _of_kind(self, batch: Batch) -> Batch:
        if self.kind is not None:
            self.kind.check(batch)
        return batch

    def _counted(self, batch: Any) -> tuple[int, Callable[[], Batch]]:
        """How many samples a batch has, and how to read it: plain pairs need not be read to be counted."""
        plain = _plain_count(batch) if self._split is None else None
        if plain is not None:
            return plain, lambda: read_batch(batch)
        found = self._columns.marked(read_batch(batch, self._split))
        return found.samples, lambda: found

    def begin(self, loader: object = None) -> None:
        """An epoch begins; the rows of the last one stay until this one has given as many.

        That of another loader, before the loop has come to a check, is a part of it: loops run within one another, or
        one after the other.
        """
        self._announced = True
        if self._checked or self._loader is None or self._loader is loader:
            self._loader, self._checked = loader, False
            self._turn()

    def mark(self) -> None:
        """The loop has come to a check: a full sample is followed by a new one, also within an epoch without an end."""
        self._checked = True
        if self._now.seen >= self._keep:
            self._turn()

    def _turn(self) -> None:
        if self._now.size:
            rate = self._now.rate
            self._last = self._now if self._now.is_as_good_as(self._last) else self._larger
            self._last.fit(self._most_bytes / 2)
            self._now = _Generation(self._keep, self._most_bytes - self._last.bytes, self._generator, rate)

    def rows(self, most: int, generator: np.random.Generator) -> Rows:
        """At most so many kept samples, in random order."""
        found = Rows.of(self._larger.clusters(), self._largest, once=not self._announced)
        return found.take(generator.permutation(len(found))[:most])
