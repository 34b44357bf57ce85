"""Remembers what one object, container, class, variable or generator holds, and puts it back."""

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from operator import is_
from types import CellType, MemberDescriptorType
from typing import Any

import numpy as np
import torch

BASES = (OrderedDict, dict, list, set, deque, bytearray)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
"""Values that nobody can change."""
MISSING: Any = object()
Undo = Callable[[], object]


def length_of(value: Any) -> int:
    """Of a container, whatever its own class makes of `len`."""
    return int(_base_of(value).__len__(value))


def _base_of(value: Any) -> Any:
    """The class whose methods look into a container: subclasses may forbid theirs, or do more in them."""
    return next(kind for kind in BASES if issubclass(type(value), kind))


def of_container(value: Any, entries: list[Any]) -> Undo:
    """All that a container holds, as references."""
    return partial(_refill, value, entries)


def of_large(value: Any) -> Undo:
    """A container of very many entries; of a list or a dict only how long it is, since such are added to at the end."""
    if isinstance(value, deque | set):
        return partial(_refill, value, entries_of(value))
    return partial(_shorten, value, length_of(value))


def entries_of(value: Any) -> list[Any]:
    """All that a container holds; of a mapping each key before its entry."""
    if isinstance(value, dict):
        return [part for pair in _base_of(value).items(value) for part in pair]
    return list(_base_of(value).__iter__(value))


def _refill(value: Any, entries: list[Any]) -> None:
    now = entries_of(value)
    if len(now) == len(entries) and all(map(is_, now, entries)):
        return
    base = _base_of(value)
    base.clear(value)
    if isinstance(value, dict):
        for key, entry in zip(entries[::2], entries[1::2], strict=True):
            base.__setitem__(value, key, entry)
    elif isinstance(value, set):
        base.update(value, entries)
    else:
        base.extend(value, entries)


def _shorten(value: Any, length: int) -> None:
    base = _base_of(value)
    if isinstance(value, dict):
        while length_of(value) > length:
            base.popitem(value)
    elif length_of(value) > length:
        base.__delitem__(value, slice(length, None))


def attributes_of(value: Any) -> dict[str, Any]:
    """An object's attributes, those in slots included, without asking the object."""
    found = dict[str, Any](_dict_of(value))
    for name, member in _slots(type(value)):
        with suppress(AttributeError):  # empty yet
            found[name] = member.__get__(value)
    return found


def of_object(value: Any, content: dict[str, Any]) -> Undo:
    """An object's attributes, as references."""
    return partial(_reset, value, content)


def _reset(value: Any, content: dict[str, Any]) -> None:
    present, slots = _dict_of(value), dict(_slots(type(value)))
    if isinstance(present, dict):
        for name in [name for name in present if name not in content]:
            del present[name]
        present.update({name: entry for name, entry in content.items() if name not in slots})
    for name, member in slots.items():
        if name in content:
            member.__set__(value, content[name])
        else:
            with suppress(AttributeError):
                member.__delete__(value)


def _dict_of(value: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found


def _slots(kind: type) -> Iterator[tuple[str, Any]]:
    for base in kind.__mro__:
        yield from ((name, part) for name, part in vars(base).items() if type(part) is MemberDescriptorType)


def of_class(kind: type) -> Undo:
    """What a class keeps for all of its objects, such as a count of calls; as references."""
    before = dict(vars(kind))
    content = {name: value for name, value in before.items() if not name.startswith("__") and _is_value(value)}

    def undo() -> None:
        for name in [name for name in vars(kind) if name not in before and not name.startswith("__")]:
            delattr(kind, name)
        for name, value in content.items():
            if vars(kind).get(name) is not value:
                setattr(kind, name, value)

    return undo


def _is_value(value: Any) -> bool:
    """Whether an attribute of a class is no method, property or the like."""
    return type(value) in PLAIN or not (callable(value) or hasattr(type(value), "__get__"))


def of_variable(names: dict[str, Any], name: str) -> Undo:
    """What a global variable stands for, if anything."""
    before = names.get(name, MISSING)

    def undo() -> None:
        if names.get(name, MISSING) is not before:
            if before is MISSING:
                del names[name]
            else:
                names[name] = before

    return undo


def of_cell(cell: CellType, content: Any) -> Undo:
    """What a variable of an outer function stands for."""
    return lambda: setattr(cell, "cell_contents", content)


def of_entries(value: dict[str, Any], content: Mapping[str, Any]) -> Undo:
    """Some entries of a dict, as references."""

    def undo() -> None:
        for name, entry in content.items():
            if value.get(name) is not entry:
                value[name] = entry

    return undo


def of_generator(value: Any) -> Iterator[Undo]:
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
