"""Remembers the contents of tensors that a pass may write into."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

MOST_ELEMENTS = 1_000_000
"""Of all tensors together: what is larger and is written into in a pass stays as written."""


class Room:
    """So many elements are remembered, and no more."""

    def __init__(self, elements: int | None = None) -> None:
        self._left = MOST_ELEMENTS if elements is None else elements

    def takes(self, elements: int) -> bool:
        """Whether so many more fit; they are taken off if so."""
        if elements > self._left:
            return False
        self._left -= elements
        return True


def remembered(value: Tensor, room: Room) -> Callable[[], object] | None:
    """What puts a tensor's content back bit by bit; None where it cannot be looked into, or there is no room for it.

    Sparse, nested, quantised and meta tensors, and those that do not exist yet, stay as they are.
    """
    strided = value.layout == torch.strided and not (value.is_meta or value.is_nested or value.is_quantized)
    if is_lazy(value) or not strided or not room.takes(value.numel()):
        return None
    content = value.detach().clone()
    return lambda: None if torch.equal(value, content) else value.data.copy_(content)
