"""Puts back what modules keep in plain attributes: hidden states, counters, caches, generators of their own."""

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_ELEMENTS = 1_000_000
"""Of all tensors and containers together whose contents are remembered."""
Undo = Callable[[], object]
OWN = frozenset(vars(nn.Module()))
"""What every module has; parameters, buffers and modes are looked after elsewhere."""


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Put the attributes of all modules back, and the contents of those that are tensors, containers or generators.

    A recurrent network may carry its state from batch to batch in an attribute: a pass in between must not show.
    """
    memory = _Memory()
    before = [(vars(module), _own(module)) for module in model.modules()]
    undo = [step for _, own in before for value in own.values() for step in memory.steps(value)]
    try:
        yield
    finally:
        for present, own in before:
            for name in [name for name in present if name not in OWN and name not in own]:
                del present[name]
            present.update(own)
        for step in undo:
            # What one object of the user's does not let itself be given back keeps nobody else from it.
            with suppress(Exception):
                step()


def _own(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in OWN}


class _Memory:
    """Remembers contents, as many elements as there is room for."""

    def __init__(self) -> None:
        self._room = MOST_ELEMENTS

    def steps(self, value: Any) -> list[Undo]:
        """What puts the contents of a value back; nothing of an object that cannot be looked into."""
        found = list[Undo]()
        with suppress(Exception):
            found.extend(self.remember(value))
        return found

    def remember(self, value: Any, *, deeper: bool = True) -> Iterator[Undo]:
        """Yield what puts the contents of a value back; of a container also those of its entries."""
        if isinstance(value, Tensor):
            plain = type(value) is Tensor and value.layout == torch.strided and not value.is_meta
            if plain and self._fits(value.numel()):
                yield _of_tensor(value)
        elif isinstance(value, np.ndarray):
            if self._fits(value.size):
                yield _of_array(value)
        elif isinstance(value, list | deque | dict | set):
            if self._fits(len(value)):
                yield _of_container(value)
                entries = list(value.values() if isinstance(value, dict) else value) if deeper else []
                for entry in entries:
                    yield from self.remember(entry, deeper=False)
        elif isinstance(value, tuple) and deeper:
            for entry in value:
                yield from self.remember(entry, deeper=False)
        else:
            yield from _of_generator(value)

    def _fits(self, elements: int) -> bool:
        if elements > self._room:
            return False
        self._room -= elements
        return True


def _of_tensor(value: Tensor) -> Undo:
    content = value.detach().clone()
    return lambda: None if torch.equal(value, content) else value.data.copy_(content)


def _of_array(value: np.ndarray[Any, Any]) -> Undo:
    content = value.copy()
    return lambda: np.copyto(value, content) if value.flags.writeable else None


def _of_container(value: Any) -> Undo:
    """By the base class's own methods: subclasses may forbid theirs, or do more in them."""
    base: Any = next(kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(value, kind))
    entries = _entries(value)

    def undo() -> None:
        now = _entries(value)
        if len(now) == len(entries) and all(a is b for a, b in zip(now, entries, strict=True)):
            return
        base.clear(value)
        if isinstance(value, dict):
            for key, entry in zip(entries[::2], entries[1::2], strict=True):
                base.__setitem__(value, key, entry)
        elif isinstance(value, set):
            base.update(value, entries)
        else:
            base.extend(value, entries)

    return undo


def _entries(value: Any) -> list[Any]:
    """All that a container holds; of a mapping each key before its entry."""
    if isinstance(value, dict):
        return [part for pair in dict.items(value) for part in pair]
    return list(value)


def _of_generator(value: Any) -> Iterator[Undo]:
    """A random generator's state."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: value.set_state(state)
    elif isinstance(value, np.random.Generator):
        numbers = value.bit_generator.state
        yield lambda: setattr(value.bit_generator, "state", numbers)
    elif isinstance(value, np.random.RandomState):
        old = value.get_state()
        yield lambda: value.set_state(old)
    elif isinstance(value, random.Random):
        python = value.getstate()
        yield lambda: value.setstate(python)
