"""Python values of single samples beside a batch's tensors (names, lengths, words), kept row by row as these are.

A list says nothing of itself: `[3, 5]` may be two samples' lengths or an image's size. What has as many entries as
there are samples has one for each, unless batches of another size have shown that it is the same for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from enum import Enum
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.errors import DataError
from trainer.samples.batches import Batch

FEW = 2
"""Lists of so many entries may well be as long as the batch by chance: pairs, and lists of one."""
PLAIN = (
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    type,
    range,
    Enum,
    np.generic,
    torch.dtype,
    torch.device,
    torch.Size,
)
"""Values that say all that they are where they are printed."""
CODE = (nn.Module, FunctionType, MethodType)
ROWS = (Tensor, np.ndarray, list, tuple)
CURE = (
    "let `split` give what each sample has its own of as a tensor or a numpy array (of dtype=object, if it is no "
    "number), and leave out what is the same for all, which the model may know by itself"
)


class Column:
    """One value for each sample, read as a tensor is: from a list or a tuple, or a numpy array's rows.

    The values themselves are not copied.
    """

    device = torch.device("cpu")

    def __init__(self, values: NDArray[Any], kind: type) -> None:
        self._values, self._kind = values, kind

    @classmethod
    def of(cls, values: Sequence[Any] | NDArray[Any]) -> "Column":
        """A column of these values, one a sample."""
        if isinstance(values, np.ndarray):
            return cls(values, np.ndarray)
        found = np.empty(len(values), object)  # entry by entry: numpy would make a matrix of lists of equal length
        for place, value in enumerate(values):
            found[place] = value
        return cls(found, type(values))

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Tensor) -> "Column":
        return Column(self._values[index.numpy()], self._kind)

    @property
    def nbytes(self) -> int:
        """What they take in memory, about."""
        words = sum(len(value) for value in self._values.flat if isinstance(value, str | bytes | list | tuple))
        return self._values.nbytes + words

    @property
    def key(self) -> str:
        """What columns have to have in common, so that they can be joined."""
        return f"{self._kind.__name__} of {self._values.dtype} {self._values.shape[1:]}"

    def detach(self) -> "Column":
        """The same; gradients go through tensors alone."""
        return self

    def clone(self) -> "Column":
        """The same values, whatever becomes of the list."""
        return Column(self._values.copy(), self._kind)

    def to(self, _: object) -> "Column":
        """The same; Python's values are on the host."""
        return self

    def contents(self) -> list[bytes]:
        """What tells each row from other ones."""
        return [told(value).encode() for value in self._values]

    def restored(self) -> Any:
        """As the loop has them: a list, a tuple or an array."""
        return self._values if self._kind is np.ndarray else self._kind(self._values)

    @staticmethod
    def joined(columns: "Sequence[Column]") -> "Column":
        """One below the other."""
        return Column(np.concatenate([column._values for column in columns]), columns[0]._kind)


class Columns:
    """Tells what has an entry for each sample from what is the same for all; what a batch has shown is remembered."""

    def __init__(self) -> None:
        self._by_sample: dict[str, bool] = {}

    def marked(self, batch: Batch) -> Batch:
        """The batch with columns in the place of lists, tuples and arrays; DataError for what may be either."""
        if not batch.samples:
            return batch
        args = [self._visit(part, f"argument {place}", batch.samples) for place, part in enumerate(batch.args)]
        kwargs = {name: self._visit(part, f"argument {name!r}", batch.samples) for name, part in batch.kwargs.items()}
        return replace(batch, args=tuple(args), kwargs=kwargs)

    def _visit(self, value: Any, name: str, count: int) -> Any:
        if _is_row_of_values(value) and self._has_one_each(value, name, count):
            return Column.of(value)
        if isinstance(value, Mapping):
            return {key: self._visit(part, f"{name}[{key!r}]", count) for key, part in value.items()}
        fields = getattr(value, "_fields", None) if isinstance(value, tuple) else None
        if fields is None and type(value) not in (list, tuple):
            self._refuse_counting(value, name, count)
            return value
        named = zip(fields or range(len(value)), value, strict=True)
        parts = [self._visit(part, f"{name}[{key!r}]", count) for key, part in named]
        return type(value)(parts) if fields is None else type(value)(*parts)

    def _refuse_counting(self, value: object, name: str, count: int) -> None:
        if count > 1 and not isinstance(value, (*PLAIN, *CODE, Tensor, np.ndarray)) and _may_count(value, count):
            raise DataError(
                f"{name} of this batch is a {type(value).__name__} that holds something of each sample, and single "
                f"samples cannot be taken from it; {CURE}"
            )

    def _has_one_each(self, values: Sequence[Any] | NDArray[Any], name: str, count: int) -> bool:
        """Whether this has an entry for each sample, by its length here and what it was in other batches."""
        known = self._by_sample.get(name)
        if len(values) != count:
            if known:
                raise DataError(
                    f"{name} of this batch has {len(values)} entries beside {count} samples, and had one for each "
                    f"sample before; {CURE}"
                )
            self._by_sample[name] = False
            return False
        if known is None and count <= FEW and not isinstance(values, np.ndarray):
            raise DataError(
                f"{name} of this batch, a {type(values).__name__} of {count}, may be of each sample or the same for "
                f"all; {CURE}"
            )
        return self._by_sample.setdefault(name, True)


def _is_row_of_values(value: object) -> bool:
    """Whether this may have an entry for each sample: a list without tensors that have rows of their own, an array."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return type(value) in (list, tuple) and not _has_rows(value)


def _has_rows(tree: object) -> bool:
    if isinstance(tree, Tensor):
        return tree.dim() > 0
    if isinstance(tree, Mapping):
        return any(map(_has_rows, tree.values()))
    return isinstance(tree, tuple | list) and any(map(_has_rows, tree))


def _may_count(value: object, count: int) -> bool:
    """Whether an object has so many entries, or an array or a list that has as an attribute."""
    parts = [part for part in getattr(value, "__dict__", {}).values() if isinstance(part, ROWS)]
    for part in (value, *parts):
        try:
            if len(part) == count:  # type: ignore[arg-type]
                return True
        except Exception:  # it has no length, or does not say it
            continue
    return False


def told(value: object) -> str:
    """What tells a value from others: by what it holds, as far as that is known, and else by itself.

    What it prints is not enough: numbers are rounded there, and long arrays are cut.
    """
    return f"{type(value).__module__}.{type(value).__qualname__} {_content(value)}"


def _content(value: Any) -> str:
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray):
        return f"{value.dtype} {tuple(value.shape)} {_numbers(value)}"
    if isinstance(value, Mapping):
        return str([(told(name), told(part)) for name, part in value.items()])
    if isinstance(value, tuple | list):
        return str(list(map(told, value)))
    if isinstance(value, SimpleNamespace) or (is_dataclass(value) and hasattr(value, "__dict__")):
        return told(vars(value))
    return f"at {id(value)}"


def _numbers(values: Tensor | NDArray[Any]) -> str:
    if isinstance(values, Tensor):
        return values.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().tobytes().hex()
    return told(values.tolist()) if values.dtype.hasobject else values.tobytes().hex()
