"""Remembers what one object, container, class, variable or generator holds, and puts it back."""

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from operator import is_
from types import CellType, MemberDescriptorType
from typing import Any, Protocol

import numpy as np
import torch

BASES = (OrderedDict, dict, list, set, deque, bytearray)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
"""Values that nobody can change."""
MISSING: Any = object()
TRIES = 8
"""So often what somebody writes into meanwhile is read anew."""


class Others(Protocol):
    """What runs beside a pass."""

    def wrote(self, owner: object, name: str | None = None, told: str | None = None) -> bool:
        """Whether a change may be another thread's doing: of an object, or of what it has under a name."""


Undo = Callable[[Others], object]
"""Puts back what has changed, but for what others may have changed."""


def length_of(value: Any) -> int:
    """Of a container, whatever its own class makes of `len`."""
    return int(_base_of(value).__len__(value))


def _base_of(value: Any) -> Any:
    """The class whose methods look into a container: subclasses may forbid theirs, or do more in them."""
    return next(kind for kind in BASES if issubclass(type(value), kind))


def of_container(value: Any, entries: list[Any], name: str) -> Undo:
    """All that a container holds, as references; `name` is what it is known by."""
    return partial(_refill, value, entries, name)


def of_large(value: Any, name: str) -> Undo:
    """A container of very many entries; of a list or a dict only how long it is, since such are added to at the end."""
    if isinstance(value, deque | set):
        return partial(_refill, value, entries_of(value), name)
    return partial(_shorten, value, length_of(value), name)


def entries_of(value: Any) -> list[Any]:
    """All that a container holds; of a mapping each key before its entry."""
    if isinstance(value, dict):
        return [part for pair in _at_once(partial(_base_of(value).items, value)) for part in pair]
    return _at_once(partial(_base_of(value).__iter__, value))


def _at_once(read: Callable[[], Iterable[Any]]) -> list[Any]:
    """All of it in one go: other threads, and what the collection of garbage ends, may write into it meanwhile."""
    for _ in range(TRIES):
        with suppress(RuntimeError):
            return list(read())
    return list(read())


def _refill(value: Any, entries: list[Any], name: str, others: Others) -> None:
    now = entries_of(value)
    if (len(now) == len(entries) and all(map(is_, now, entries))) or others.wrote(value, told=name):
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


def _shorten(value: Any, length: int, name: str, others: Others) -> None:
    base = _base_of(value)
    if length_of(value) <= length or others.wrote(value, told=name):
        return
    if isinstance(value, dict):
        while length_of(value) > length:
            base.popitem(value)
    else:
        base.__delitem__(value, slice(length, None))


def attributes_of(value: Any) -> dict[str, Any]:
    """An object's attributes, those in slots included, without asking the object."""
    found = dict[str, Any](_dict_of(value))
    for name, member in _slots(type(value)):
        if (entry := member_of(value, member)) is not MISSING:
            found[name] = entry
    return found


def of_object(value: Any, content: dict[str, Any]) -> Undo:
    """An object's attributes, as references."""
    return partial(_reset, value, content)


def _reset(value: Any, content: dict[str, Any], others: Others) -> None:
    slots = dict(_slots(type(value)))
    put_back(value, _dict_of(value), {name: entry for name, entry in content.items() if name not in slots}, others)
    for name, member in slots.items():
        if member_of(value, member) is content.get(name, MISSING) or others.wrote(value, name):
            continue
        if name in content:
            member.__set__(value, content[name])
        else:
            member.__delete__(value)


def put_back(owner: object, present: dict[str, Any], content: Mapping[str, Any], others: Others) -> None:
    """Give a dict of an owner's attributes the entries that it had."""
    for name in [name for name in present if name not in content]:
        if not others.wrote(owner, name):
            del present[name]
    for name, entry in content.items():
        if present.get(name, MISSING) is not entry and not others.wrote(owner, name):
            present[name] = entry


def member_of(value: Any, member: MemberDescriptorType) -> Any:
    """What is in a slot, MISSING if it is empty."""
    try:
        return member.__get__(value)
    except AttributeError:
        return MISSING


def _dict_of(value: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}  # a class may call something else so


def _slots(kind: type) -> Iterator[tuple[str, Any]]:
    for base in kind.__mro__:
        yield from ((name, part) for name, part in vars(base).items() if type(part) is MemberDescriptorType)


def of_class(kind: type) -> Undo:
    """What a class keeps for all of its objects, such as a count of calls; as references."""
    before = dict(vars(kind))
    content = {name: value for name, value in before.items() if not name.startswith("__") and _is_value(value)}

    def undo(others: Others) -> None:
        for name in [name for name in vars(kind) if name not in before and not name.startswith("__")]:
            if not others.wrote(kind, name):
                delattr(kind, name)
        for name, value in content.items():
            if vars(kind).get(name) is not value and not others.wrote(kind, name):
                setattr(kind, name, value)

    return undo


def _is_value(value: Any) -> bool:
    """Whether an attribute of a class is no method, property or the like."""
    return type(value) in PLAIN or not (callable(value) or hasattr(type(value), "__get__"))


def of_variable(names: dict[str, Any], name: str) -> Undo:
    """What a global variable stands for, if anything."""
    before = names.get(name, MISSING)

    def undo(others: Others) -> None:
        if names.get(name, MISSING) is not before and not others.wrote(names, name):
            if before is MISSING:
                del names[name]
            else:
                names[name] = before

    return undo


def of_cell(cell: CellType, content: Any, name: str) -> Undo:
    """What a variable of an outer function stands for."""

    def undo(others: Others) -> None:
        try:
            same = cell.cell_contents is content
        except ValueError:  # it was deleted
            same = False
        if not same and not others.wrote(cell, name):
            cell.cell_contents = content

    return undo


def of_entries(value: dict[str, Any], content: Mapping[str, Any]) -> Undo:
    """Some entries of a dict, as references."""

    def undo(others: Others) -> None:
        for name, entry in content.items():
            if value.get(name) is not entry and not others.wrote(value, name):
                value[name] = entry

    return undo


def of_generator(value: Any) -> Undo:
    """A random generator's state; NotImplementedError of one that has none, as the operating system's."""
    state = _state_of(value)

    def undo(others: Others) -> None:
        if not others.wrote(value):
            _set_state(value, state)

    return undo


def _state_of(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
