"""Which methods code may call: those of the user's classes that are known, by the names that the code names."""

from collections.abc import Collection, Iterator
from functools import cached_property, lru_cache, partialmethod
from types import FunctionType
from typing import Any

from trainer.restoring.own_code import is_users

CACHED: Any = type(lru_cache(len))
WITHOUT_A_NAME = ("forward", "__call__", "__next__", "__iter__", "__getitem__", "__setitem__", "__len__")
"""Methods that are called without being named."""


class Calls:
    """Grows with each class and each name; each method is given once.

    A name is not followed to one object: any class that is known may be what it is looked up in. So nothing has to be
    run, and a method too many does no harm.
    """

    def __init__(self) -> None:
        self.names = set[str](WITHOUT_A_NAME)
        self._kinds, self._given = dict[type, None](), set[int]()

    def meet(self, kind: type) -> list[Any]:
        """Of a class, and of what it inherits from, the methods that were named already."""
        new = [base for base in kind.__mro__ if base not in self._kinds and is_users(base.__module__)]
        self._kinds.update(dict.fromkeys(new))
        return list(self._methods(new, self.names))

    def learn(self, names: Collection[str]) -> list[Any]:
        """Of the classes that are known, the methods of these names."""
        new = set(names).difference(self.names)
        self.names |= new
        return list(self._methods(self._kinds, new)) if new else []

    def _methods(self, kinds: Collection[type], names: Collection[str]) -> Iterator[Any]:
        for kind in kinds:
            present = vars(kind)
            for name in present.keys() & names:
                method = _function(present[name])
                if isinstance(method, FunctionType) and id(method) not in self._given:
                    self._given.add(id(method))
                    yield method


def _function(part: Any) -> Any:
    """What is behind an attribute of a class: a method, a property, something cached or bound."""
    if isinstance(part, property):
        return part.fget
    if isinstance(part, staticmethod | classmethod):
        part = part.__func__
    if isinstance(part, partialmethod | cached_property):
        part = part.func
    return part.__wrapped__ if isinstance(part, CACHED) else part
