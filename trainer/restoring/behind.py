"""Walks from data loaders and the like to all that they draw from: datasets, transforms, collations, samplers."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from trainer.restoring.own_code import OURS, is_users, root_of
from trainer.restoring.undoing import PLAIN, attributes_of

DEPTH = 8
"""So many objects and containers deep."""
MOST = 1_000
"""Objects that are looked at, the nearest first."""
MOST_ENTRIES = 100
"""Of a container: what is larger is a table of data."""
CONTAINERS = (list, tuple, dict, set, frozenset, deque)
NOTHING_BEHIND = (Tensor, np.ndarray, ModuleType, nn.Module, type)


def behind(sources: Iterable[Any]) -> Iterator[Any]:
    """The sources and what they hold, whatever classes it has: nothing is run, and no property read."""
    seen = dict[int, Any]()  # held, so that no other object gets its id
    waiting = deque((source, DEPTH) for source in sources)
    while waiting and len(seen) < MOST:
        value, depth = waiting.popleft()
        kind = type(value)
        if kind in PLAIN or id(value) in seen or issubclass(kind, NOTHING_BEHIND) or root_of(kind.__module__) in OURS:
            continue
        seen[id(value)] = value
        yield value
        if depth:
            with suppress(Exception):  # an object of somebody's own may do anything when it is looked at
                waiting.extend((part, depth - 1) for part in _parts(value))


def _parts(value: Any) -> Iterable[Any]:
    """What a value holds or, if it is called, uses."""
    kind = type(value)
    if issubclass(kind, CONTAINERS):
        return list(value.values() if issubclass(kind, dict) else value) if len(value) <= MOST_ENTRIES else ()
    if issubclass(kind, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if issubclass(kind, MethodType):
        return [value.__self__, value.__func__]
    if issubclass(kind, FunctionType):
        return _around(value)
    return attributes_of(value).values()


def _around(function: FunctionType) -> list[Any]:
    """Of a function of the user's its defaults, and the variables around it and global ones that it names."""
    if not is_users(function.__module__):
        return []
    found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # one that is empty yet
            found.append(cell.cell_contents)
    return found + [
        value for name in function.__code__.co_names if (value := function.__globals__.get(name)) is not None
    ]
