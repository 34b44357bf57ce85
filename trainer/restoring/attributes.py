"""Puts back what a pass may note down: in attributes of modules, and in what hooks and code of the user's reach."""

import builtins
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from functools import partial
from heapq import heappop, heappush
from io import IOBase
from threading import Thread
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules import module as all_modules
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.restoring import undoing
from trainer.restoring.behind import behind
from trainer.restoring.beside import Beside
from trainer.restoring.calls import CACHED, Calls
from trainer.restoring.modules import Entries, buffers_of, modules_of, parameters_of
from trainer.restoring.named import named_in
from trainer.restoring.own_code import OURS, is_users, root_of
from trainer.restoring.tensors import Contents, Values
from trainer.restoring.undoing import GENERATORS, PLAIN, Undo

MOST_ENTRIES = 20_000
"""Of all containers together that are looked into, the smallest first: what is larger is a table, and no state."""
MOST_BEHIND = 100
"""Of a container behind a data loader: what is larger is data, and its entries are not looked at one by one."""
CONTAINERS = (list, deque, dict, set, bytearray)
DATA = (*CONTAINERS, tuple, Tensor, np.ndarray)
"""Of what is behind a data loader: no state, where it is no attribute of an object of the user's."""
NO_STATE = (IOBase, Thread)
"""Objects that are no state of a model, even where their classes are the user's."""
LOADERS = (DataLoader, Dataset, Sampler)
"""Objects of torch's through which the user's own are reached: data sets, transforms, collations."""
CONTAINING = frozenset({"collections", "queue", "weakref"})
"""Modules of Python whose objects are containers."""
OWN = frozenset(vars(nn.Module()))
"""What every module has; parameters, buffers and modes are looked after elsewhere."""


@contextmanager
def attributes_kept(
    model: nn.Module, *functions: Callable[..., object], loaders: Iterable[object] = (), beside: Beside | None = None
) -> Iterator[list[str]]:
    """Put the attributes of all modules back, and the contents of those that are tensors, containers or generators.

    A recurrent network may carry its state from batch to batch in an attribute: a pass in between must not show. So
    may objects of the user's own, hooks, classes, variables around a function and global ones: those that a `forward`,
    a hook or one of the functions names, and what is behind `loaders`. What may be the doing of threads
    `beside` the pass stays. Given are the names of iterators that it draws from: nothing puts these back.
    """
    others = beside or Beside()
    modules = modules_of(model)
    present = list(map(vars, modules))
    before, memory = Entries(present), _Memory(modules, hooks := list(_hooks(modules)))
    memory.look(before.items_but(OWN))
    memory.look(("__call__", value) for value in (*hooks, *functions))
    memory.look_behind(loaders)
    contents = memory.remember()
    try:
        yield memory.iterators()
    finally:
        for number, then in before.changed(present):
            own = {name: value for name, value in present[number].items() if name in OWN}
            undoing.put_back(modules[number], present[number], then | own, others)
        for step in memory.undo:
            # What one object of the user's does not let itself be given back keeps nobody else from it.
            with suppress(Exception):
                step(others)
        contents.put_back(others)
        others.tell(memory.names)


def _hooks(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """What is called around a pass, and may have a memory; the methods of modules are these modules' matter."""
    for present in (vars(all_modules), *map(vars, modules)):
        for name in ("_forward_hooks", "_forward_pre_hooks", "_global_forward_hooks", "_global_forward_pre_hooks"):
            if found := present.get(name):
                yield from list(found.values())


class _Memory:
    """Remembers what it finds, each object once, small ones before large ones."""

    def __init__(self, modules: Sequence[nn.Module], hooks: Iterable[Any]) -> None:
        self.undo = list[Undo]()
        self._entries, self._values, self._calls = MOST_ENTRIES, list[Values](), Calls()
        self._iterators, self._classes = dict[str, None](), set[type]()
        self._loaders, self._longest = list[Any](), MOST_ENTRIES
        self._waiting: list[tuple[int, int, str, Any, Way]] = []
        self._ways: dict[type, Way | None] = {}  # functions, not methods: these would hold it in a circle
        registered = (*modules, *parameters_of(modules), *buffers_of(modules))
        self._seen = {id(one): one for one in registered}  # held, so that no other object gets its id
        present = set(map(type, modules))
        homes = {one.__module__ for one in present} | {type(hook).__module__ for hook in hooks}
        self._homes = {home for home in homes if root_of(home) not in OURS | {"torch", "builtins"}}
        for kind in {kind for one in present for kind in one.__mro__}:
            if root_of(kind.__module__) not in ("torch", "builtins"):
                self._class(kind)

    def look(self, found: Iterable[tuple[str, Any]]) -> None:
        """Note values, with the names under which they are reached."""
        for name, value in found:
            kind = type(value)
            if kind in PLAIN or id(value) in self._seen:
                continue
            if kind not in self._ways:  # asked once: a model may keep thousands of objects of a few kinds
                self._ways[kind] = self._way(kind)
            if (way := self._ways[kind]) is not None:
                self._seen[id(value)] = value
                size = undoing.length_of(value) if issubclass(kind, CONTAINERS) else 0
                heappush(self._waiting, (size, len(self._seen), name, value, way))

    def look_behind(self, loaders: Iterable[Any]) -> None:
        """Note loaders of data."""
        self._loaders.extend(loaders)

    def remember(self) -> Contents:
        """Go through all that was noted, and what is found in it; the contents of tensors and arrays.

        What is behind data loaders comes last: somebody may draw from iterators there, but nobody knows who.
        """
        self._explore()
        drawn, self._longest = dict(self._iterators), MOST_BEHIND
        while self._loaders:
            found, self._loaders = behind(self._loaders), []
            self.look(("", one) for one in found if not isinstance(one, DATA))
            self._explore()
        self._iterators = drawn
        return Contents(self._values)

    def _explore(self) -> None:
        while self._waiting:
            _, _, name, value, way = heappop(self._waiting)
            with suppress(Exception):  # an object of somebody's own may do anything when it is looked at
                way(self, value, name)

    @property
    def names(self) -> set[str]:
        """What the code names that was followed."""
        return self._calls.names

    def iterators(self) -> list[str]:
        """The names of iterators that code draws from."""
        return [name for name in self._iterators if name in self.names]

    def _way(self, kind: type) -> "Way | None":
        """How to look into values of a kind; None for what is no state of a model."""
        ways: tuple[tuple[Any, Way | None], ...] = (
            (FunctionType, _Memory._see_function),
            (MethodType, _Memory._see_method),
            (partial, _Memory._see_partial),
            (CACHED, _Memory._see_cached),
            (ModuleType, None),
            (type, _Memory._see_class),
            ((Tensor, np.ndarray, array), _Memory._see_values),
            (CONTAINERS, _Memory._see_container),
            (tuple, _Memory._see_tuple),
            (GENERATORS, _Memory._see_generator),
            (Optimizer, _Memory._see_optimizer),
            (NO_STATE, None),
            (DataLoader, _Memory._see_loader),
        )
        for kinds, way in ways:
            if issubclass(kind, kinds):
                return way
        if self._is_state(kind):
            return _Memory._see_object
        if issubclass(kind, LOADERS):
            return _Memory._see_loader
        return _Memory._see_iterator if hasattr(kind, "__next__") else None

    def _is_state(self, kind: type) -> bool:
        """Whether an object is part of the model, by its kind or its class's home: not a library's logger or Trainer.

        Nor anything of a tunneller's own, which the user's objects may hold.
        """
        homes = {base.__module__ for base in kind.__mro__}
        if OURS & set(map(root_of, homes)):
            return False
        kept = issubclass(kind, nn.Module | SimpleNamespace | LRScheduler) or is_dataclass(kind)
        return kept or kind.__module__ in self._homes | CONTAINING or is_users(kind.__module__)

    def _see_values(self, value: Values, _: str) -> None:
        self._values.append(value)

    def _see_container(self, value: Any, name: str) -> None:
        if self._fits(undoing.length_of(value)):
            entries = undoing.entries_of(value)
            self.undo.append(undoing.of_container(value, entries, name))
            if len(entries) <= self._longest:
                self.look((name, entry) for entry in entries)
        else:
            self.undo.append(undoing.of_large(value, name))

    def _see_tuple(self, value: Any, name: str) -> None:
        if len(value) <= self._longest and self._fits(len(value)):
            self.look((name, entry) for entry in value)

    def _see_generator(self, value: Any, _: str) -> None:
        self.undo.append(undoing.of_generator(value))

    def _see_loader(self, value: Any, _: str) -> None:
        self._loaders.append(value)

    def _see_iterator(self, _: Any, name: str) -> None:
        self._iterators[name] = None

    def _see_optimizer(self, value: Any, name: str) -> None:
        """What schedules change; its state and parameters are no pass's matter."""
        for group in value.param_groups:
            content = {key: entry for key, entry in group.items() if key != "params"}
            self.undo.append(undoing.of_entries(group, content))
            self.look((name, entry) for entry in content.values())

    def _see_object(self, value: Any, _: str) -> None:
        content = undoing.attributes_of(value)
        if self._fits(len(content)):
            self.undo.append(undoing.of_object(value, content))
            self.look(content.items())
            self._class(type(value))

    def _see_class(self, value: type, _: str) -> None:
        if is_users(value.__module__):
            self._class(value)

    def _class(self, kind: type) -> None:
        """What a class keeps for all of its objects, and what its methods name."""
        for base in kind.__mro__:
            if base not in self._classes and root_of(base.__module__) not in ("torch", "builtins"):
                self._classes.add(base)
                self.undo.append(undoing.of_class(base))
                if is_users(base.__module__):
                    self.look((name, part) for name, part in list(vars(base).items()) if not callable(part))
        self.look(("", method) for method in self._calls.meet(kind))

    def _see_method(self, value: Any, name: str) -> None:
        self.look([(name, value.__self__), (name, value.__func__)])

    def _see_partial(self, value: Any, name: str) -> None:
        self.look((name, part) for part in (*value.args, value.func))
        self.look(value.keywords.items())

    def _see_cached(self, value: Any, name: str) -> None:
        """What a cache holds by itself is not a pass's doing alone, and cannot be looked at."""
        self.look([(name, value.__wrapped__)])

    def _see_function(self, value: Any, _: str) -> None:
        """Of a function of the user's the variables around it, the global ones that it names, and what it keeps."""
        scope, code = value.__globals__, value.__code__
        if not (is_users(value.__module__) or is_users(scope.get("__name__"))):
            return
        defaults = value.__defaults__ or ()
        own = dict(zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False))
        own |= value.__kwdefaults__ or {}
        self.look((*own.items(), ("", vars(value))))
        for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
            with suppress(ValueError):  # it is empty yet
                self.undo.append(undoing.of_cell(cell, cell.cell_contents, name))
                self.look([(name, cell.cell_contents)])
        found = named_in(code)
        if is_users(scope.get("__name__")):  # not where a library's decorator is around it
            for name in found.variables:
                self._variable(scope, name, found.attributes)
        names = {*own, *code.co_freevars, *found.variables, *found.attributes}
        self.look(("", method) for method in self._calls.learn(names))

    def _variable(self, scope: dict[str, Any], name: str, attributes: Iterable[str]) -> None:
        """A global variable; of a module of the user's those of its own that are named."""
        value = scope.get(name)
        if type(value) is ModuleType:  # others load what they are asked for
            if is_users(value.__name__):
                for part in vars(value).keys() & attributes:
                    self._variable(vars(value), part, ())
        elif name in scope or not hasattr(builtins, name):
            self.undo.append(undoing.of_variable(scope, name))
            self.look([(name, value)])

    def _fits(self, entries: int) -> bool:
        if entries > self._entries:
            return False
        self._entries -= entries
        return True


Way = Callable[[_Memory, Any, str], object]
