"""Remembers the contents of tensors and arrays that a pass may write into."""

from array import array
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Union
from weakref import ReferenceType, ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trainer.restoring.undoing import Others

MOST_ELEMENTS = 1_000_000
"""Of all that are remembered in every pass, the smallest first."""
MOST_OF_LARGE = 1 << 25
"""Of all others: a memory bank is remembered, a table that nobody writes into only once."""
Values = Union[Tensor, np.ndarray[Any, Any], "array[Any]"]


class Contents:
    """The contents of tensors and arrays as they are: small ones always, large ones where somebody writes into them.

    Sparse, nested, quantised and meta tensors, and those that do not exist yet, stay as they are.
    """

    def __init__(self, values: Iterable[Values]) -> None:
        self._copies: list[tuple[Values, Any]] = []
        self._large: list[tuple[Values, int]] = []  # with their versions
        self._left: list[tuple[Values, int]] = []
        left, more = MOST_ELEMENTS, MOST_OF_LARGE
        for value in sorted(filter(_is_plain, values), key=_size):
            size = _size(value)
            if size <= left:
                left -= size
                self._copies.append((value, _copy(value)))
                continue
            self._large.append((value, _version(value)))
            if size <= more and not isinstance(value, nn.Parameter) and not LARGE.is_table(value):
                more -= size
                self._copies.append((value, _copy(value)))
            else:
                self._left.append((value, _version(value)))

    def put_back(self, others: Others) -> list[Values]:
        """Put all back bit by bit; given are those that were written into, and of which there is no copy.

        What `others` may have written stays.
        """
        changed = set[int]()
        for value, content in self._copies:
            with suppress(Exception):  # what one does not let itself be given back keeps no other from it
                if not _equal(value, content) and not others.wrote(value):
                    changed.add(id(value))
                    _write(value, content)
        for value, version in self._large:
            LARGE.note(value, moved=id(value) in changed or _version(value) != version)
        written = (value for value, version in self._left if _version(value) != version)
        return [value for value in written if not others.wrote(value)]


class _Large:
    """Large tensors by their versions: what nobody writes into, in a pass or between two, is a table."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ReferenceType[Any], int | None]] = {}

    def is_table(self, value: Values) -> bool:
        """Whether it has been seen, and has not been written into since, nor in a pass."""
        seen, version = self._known.get(id(value), (None, None))
        return seen is not None and seen() is value and version == _version(value)

    def note(self, value: Values, *, moved: bool) -> None:
        """After a pass; what a pass, or the loop between two, wrote into is no table ever after."""
        number = id(value)
        seen, version = self._known.get(number, (None, None))
        moved |= seen is not None and seen() is value and version != _version(value)
        with suppress(TypeError):  # no reference can be made
            gone = ref(value, lambda _: self._known.pop(number, None))
            self._known[number] = gone, None if moved else _version(value)


LARGE = _Large()


def _is_plain(value: Values) -> bool:
    if not isinstance(value, Tensor):
        return True
    strided = value.layout == torch.strided and not (value.is_meta or value.is_nested or value.is_quantized)
    return strided and not is_lazy(value)


def _size(value: Values) -> int:
    return value.numel() if isinstance(value, Tensor) else int(np.size(value)) if _is_array(value) else len(value)


def _version(value: Values) -> int:
    """Counts what is written into a tensor in place; arrays do not count it, and inference tensors neither."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _copy(value: Values) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value[:]


def _equal(value: Values, content: Any) -> bool:
    if isinstance(value, Tensor):
        return torch.equal(value, content)
    if isinstance(value, np.ndarray):
        return bool(value.dtype != object and np.array_equal(value, content))
    return bool(value == content)


def _write(value: Values, content: Any) -> None:
    if isinstance(value, Tensor):
        value.data.copy_(content)
    elif isinstance(value, np.ndarray):
        np.copyto(value, content)
    else:
        value[:] = content
