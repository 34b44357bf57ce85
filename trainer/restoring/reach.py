"""Follows a function's code to what it may draw from: the objects that it names, and what functions it calls name."""

from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from trainer.restoring.attributes import OWN
from trainer.restoring.own_code import is_own, root_of
from trainer.restoring.undoing import PLAIN

DEPTH = 6
"""So many calls or containers deep."""
MOST = 500
"""Objects that are looked at."""
MOST_ENTRIES = 100
"""Of a list or a dict: what is larger is a table."""
CONTAINERS = (list, tuple, dict, set, frozenset, deque)


def within_reach(function: Callable[..., object]) -> list[Any]:
    """What a function's code names around it, and what the functions and methods of the user's own name that it calls.

    Variables of outer functions and global ones, defaults, what is bound, and attributes of objects of one's own
    classes; at most some hundred, a few steps deep. Nothing is called or imported, and no property is read.
    """
    reach = _Reach(function)
    reach.look(function, DEPTH)
    return [one for one in reach.found if one is not function]


class _Reach:
    """What has been found, each object once."""

    def __init__(self, function: Callable[..., object]) -> None:
        while isinstance(function, partial):
            function = function.func
        self._homes = {root_of(getattr(function, "__module__", None))} - {"torch", "builtins", "functools", ""}
        self._seen: dict[int, Any] = {}  # held, so that no other object gets its id
        self.found: list[Any] = []

    def look(self, value: Any, depth: int) -> None:
        """Note a value, and follow it."""
        if depth < 0 or len(self._seen) >= MOST or id(value) in self._seen:
            return
        if type(value) in PLAIN or _is(value, Tensor, np.ndarray, ModuleType, type):
            return
        self._seen[id(value)] = value
        with suppress(Exception):  # an object of somebody's own may do anything when it is looked at
            self._follow(value, depth)

    def _follow(self, value: Any, depth: int) -> None:
        if _is(value, partial):
            self._look_at_all([*value.args, *value.keywords.values(), value.func], depth)
        elif _is(value, MethodType):
            self._look_at_all([value.__self__], depth)
            self._function(value.__func__, depth, value.__self__)
        elif _is(value, FunctionType):
            self._function(value, depth, None)
        elif _is(value, *CONTAINERS):
            if len(value) <= MOST_ENTRIES:
                self._look_at_all(list(value.values() if _is(value, dict) else value), depth)
        else:
            self.found.append(value)
            if is_own(type(value).__module__, self._homes):
                self._look_at_all([part for name, part in _own(value).items() if name not in OWN], depth)
                self._members(value, ["__call__"] if depth == DEPTH else [], depth)

    def _look_at_all(self, values: Collection[Any], depth: int) -> None:
        for value in values:
            self.look(value, depth - 1)

    def _function(self, function: Any, depth: int, bound: Any) -> None:
        """What the code of a function of one's own names, `bound` being what it is a method of."""
        if not isinstance(function, FunctionType) or not (depth == DEPTH or is_own(function.__module__, self._homes)):
            return
        names = _names(function.__code__)
        found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # one that is empty yet
                found.append(cell.cell_contents)
        found += [function.__globals__[name] for name in names if name in function.__globals__]
        for value in found:
            self.look(value, depth - 1)
            self._members(value, names, depth - 1)
        if bound is not None:
            self._members(bound, names, depth - 1)

    def _members(self, value: Any, names: Collection[str], depth: int) -> None:
        """What of a module or a class of one's own, or of an object's methods, is named."""
        if depth < 0:
            return
        if type(value) is ModuleType:  # others load what they are asked for
            if is_own(value.__name__, self._homes):
                self._look_at_all([part for name, part in vars(value).items() if name in names], depth)
            return
        kind = value if _is(value, type) else type(value)
        if not is_own(kind.__module__, self._homes):
            return
        for part in (vars(base)[name] for name in names for base in kind.__mro__ if name in vars(base)):
            method = part.fget if isinstance(part, property) else getattr(part, "__func__", part)
            if not isinstance(method, FunctionType):
                self.look(method, depth - 1)
            elif id(method) not in self._seen and len(self._seen) < MOST:
                self._seen[id(method)] = method
                self._function(method, depth, value)


def _is(value: Any, *kinds: type) -> bool:
    """Like `isinstance`, without asking the value, which may be something that loads what it stands for."""
    return issubclass(type(value), kinds)


def _names(code: CodeType) -> list[str]:
    """All names in code, and in what is defined inside it, in its order."""
    inside = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    return list(dict.fromkeys([*code.co_names, *inside]))


def _own(value: Any) -> dict[str, Any]:
    """An object's attributes, without asking the object."""
    try:
        found: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:  # it has slots
        return {}
    return found
