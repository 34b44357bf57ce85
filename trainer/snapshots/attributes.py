"""Puts back what modules keep in plain attributes: hidden states, counters, caches, generators of their own."""

import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from functools import partial
from itertools import chain
from operator import is_
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.snapshots.modules import Entries, buffers_of, modules_of, parameters_of
from trainer.snapshots.tensors import Room, remembered

MOST_ENTRIES = 20_000
"""Of all containers together that are looked into: what is larger is a table, and no state."""
PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
"""Values that nobody can change."""
FOREIGN = (type, FunctionType, MethodType, ModuleType)
"""Objects that are no state of a model."""
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
DEPTH = 6
Undo = Callable[[], object]
OWN = frozenset(vars(nn.Module()))
"""What every module has; parameters, buffers and modes are looked after elsewhere."""


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Put the attributes of all modules back, and the contents of those that are tensors, containers or generators.

    A recurrent network may carry its state from batch to batch in an attribute: a pass in between must not show. What
    modules that are not registered and plain objects of the model's own keep counts, too, a few steps deep.
    """
    modules = modules_of(model)
    present, hooks = list(map(vars, modules)), list(_hooks(modules))
    before, memory = Entries(present), _Memory(modules, hooks)
    own = (value for value in before.values_but(OWN) if type(value) not in PLAIN)
    undo = [step for value in chain(own, hooks) for step in memory.steps(value)]
    undo += [_of_class(kind) for kind in memory.classes]
    try:
        yield
    finally:
        for number, then in before.changed(present):
            attributes = present[number]
            for name in [name for name in attributes if name not in OWN and name not in then]:
                del attributes[name]
            attributes.update({name: value for name, value in then.items() if name not in OWN})
        for step in undo:
            # What one object of the user's does not let itself be given back keeps nobody else from it.
            with suppress(Exception):
                step()


def _hooks(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """What is called around a pass, and may have a memory; the methods of others are these others' matter."""
    for present in map(vars, modules):
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            if found := present.get(name):
                yield from found.values()


class _Memory:
    """Remembers contents, each object once, as much as there is room for."""

    def __init__(self, modules: Sequence[nn.Module], hooks: Iterable[Any]) -> None:
        self._room, self._entries = Room(), MOST_ENTRIES
        self._ways: dict[type, Way | None] = {}  # functions, not methods: these would hold it in a circle
        registered = (*modules, *parameters_of(modules), *buffers_of(modules))
        present = set(map(type, modules))
        kinds = {kind for one in present for kind in one.__mro__}
        self.classes = [kind for kind in kinds if kind.__module__.partition(".")[0] not in ("torch", "builtins")]
        homes = {one.__module__ for one in present}
        homes |= {type(hook).__module__ for hook in hooks}
        self._homes = {home for home in homes if home.partition(".")[0] not in ("torch", "builtins")}
        self._seen = {id(one): one for one in registered}  # held, so that no other object gets its id

    def steps(self, value: Any) -> list[Undo]:
        """What puts the contents of a value back; nothing of an object that cannot be looked into."""
        found = list[Undo]()
        with suppress(Exception):
            self._look(value, found, DEPTH)
        return found

    def _look(self, value: Any, found: list[Undo], depth: int) -> None:
        kind = type(value)
        if kind in PLAIN or id(value) in self._seen:
            return
        if kind not in self._ways:  # asked once: a model may keep thousands of objects of a few kinds
            self._ways[kind] = self._way(kind, value)
        if (way := self._ways[kind]) is not None:
            self._seen[id(value)] = value
            way(self, value, found, depth)

    def _way(self, kind: type, value: Any) -> "Way | None":
        """How to look into values of a kind, of which this is one; None for what is no state of a model."""
        ways: tuple[tuple[Any, Way | None], ...] = (
            (FOREIGN, None),
            (Tensor, _Memory._see_tensor),
            ((np.ndarray, array), _Memory._see_numbers),
            ((list, deque, dict, set, bytearray), _Memory._see_container),
            (tuple, _Memory._see_tuple),
            (GENERATORS, _Memory._see_generator),
        )
        for kinds, way in ways:
            if issubclass(kind, kinds):
                return way
        return _Memory._see_object if self._is_state(kind, value) else None

    def _see_tensor(self, value: Tensor, found: list[Undo], _: int) -> None:
        if (undo := remembered(value, self._room)) is not None:
            found.append(undo)

    def _see_numbers(self, value: Any, found: list[Undo], _: int) -> None:
        whole = isinstance(value, np.ndarray)
        if self._room.takes(value.size if whole else len(value)):
            found.append(_of_array(value) if whole else _of_numbers(value))

    def _see_container(self, value: Any, found: list[Undo], depth: int) -> None:
        if self._fits(len(value)):
            entries = _entries(value)
            found.append(partial(_refill, value, entries))
            self._look_at_all(entries, found, depth)

    def _see_tuple(self, value: Any, found: list[Undo], depth: int) -> None:
        self._look_at_all(value if self._fits(len(value)) else (), found, depth)

    def _see_generator(self, value: Any, found: list[Undo], _: int) -> None:
        found.extend(_of_generator(value))

    def _see_object(self, value: Any, found: list[Undo], depth: int) -> None:
        if self._fits(len(vars(value))):
            content = dict(vars(value))
            found.append(partial(_reset, value, content))
            self._look_at_all(list(content.values()), found, depth)

    def _is_state(self, kind: type, value: Any) -> bool:
        """Whether an object is part of the model, by its kind or its class's home: not a logger, not a Trainer."""
        kept = issubclass(kind, nn.Module | SimpleNamespace) or is_dataclass(kind)
        return kept or (kind.__module__ in self._homes and hasattr(value, "__dict__"))

    def _look_at_all(self, values: Any, found: list[Undo], depth: int) -> None:
        if depth:
            for value in values:
                if type(value) not in PLAIN:
                    self._look(value, found, depth - 1)

    def _fits(self, entries: int) -> bool:
        if entries > self._entries:
            return False
        self._entries -= entries
        return True


Way = Callable[[_Memory, Any, list[Undo], int], object]


def _of_array(value: np.ndarray[Any, Any]) -> Undo:
    content = value.copy()
    return lambda: np.copyto(value, content) if value.flags.writeable else None


def _of_numbers(value: "array[Any]") -> Undo:
    content = value[:]

    def undo() -> None:
        value[:] = content

    return undo


def _of_class(kind: type) -> Undo:
    """Numbers and texts that a class keeps for all of its modules, such as a count of calls."""
    content = {name: value for name, value in vars(kind).items() if type(value) in PLAIN and not name.startswith("__")}

    def undo() -> None:
        for name, value in content.items():
            if vars(kind).get(name) is not value:
                setattr(kind, name, value)

    return undo


def _reset(value: Any, content: dict[str, Any]) -> None:
    """An object's attributes, as references."""
    present = vars(value)
    for name in [name for name in present if name not in content]:
        del present[name]
    present.update(content)


def _refill(value: Any, entries: list[Any]) -> None:
    """By the base class's own methods: subclasses may forbid theirs, or do more in them."""
    now = _entries(value)
    if len(now) == len(entries) and all(map(is_, now, entries)):
        return
    base: Any = next(kind for kind in (OrderedDict, dict, list, set, deque, bytearray) if isinstance(value, kind))
    base.clear(value)
    if isinstance(value, dict):
        for key, entry in zip(entries[::2], entries[1::2], strict=True):
            base.__setitem__(value, key, entry)
    elif isinstance(value, set):
        base.update(value, entries)
    else:
        base.extend(value, entries)


def _entries(value: Any) -> list[Any]:
    """All that a container holds; of a mapping each key before its entry."""
    if isinstance(value, dict):
        items = OrderedDict.items(value) if isinstance(value, OrderedDict) else dict.items(value)
        return [part for pair in items for part in pair]
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
