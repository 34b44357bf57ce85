"""Follows code of other threads by the names in it: to what they may write into while a pass is put back."""

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.restoring.calls import CACHED, Calls
from trainer.restoring.named import named_in
from trainer.restoring.own_code import is_users, root_of
from trainer.restoring.undoing import BASES, PLAIN, attributes_of

MOST = 20_000
"""Objects that are looked at, the nearest first."""
MOST_ENTRIES = 1_000
"""Of a container: what is larger is reached itself, and its entries are not."""
WHOLE = frozenset({"collections", "queue", "threading", "weakref", "torch"})
"""Homes of objects whose insides code reaches without naming them."""
REGISTRIES = ("_parameters", "_buffers", "_modules")


class Paths:
    """Objects that code gets at, by names of attributes and of variables; of these, which names there are."""

    def __init__(self) -> None:
        self._reached: dict[int, Any] = {}  # held, so that no other object gets its id
        self._whole = set[int]()
        self._calls = Calls()
        self._unnamed: dict[str, list[Any]] = {}
        self._waiting = deque[Any]()

    def holds(self, owner: object, name: str | None = None) -> bool:
        """Whether an object is reached, and, with a `name`, its attribute, entry or variable of that name."""
        if isinstance(owner, CellType):
            return name in self._calls.names
        return id(owner) in self._reached and (name is None or name in self._calls.names or id(owner) in self._whole)

    def begin(self, frame: FrameType) -> None:
        """Code that is being run."""
        self._code(frame.f_code, frame.f_globals)
        if frame.f_locals is not frame.f_globals:
            self._look(frame.f_locals.values())

    def begin_at(self, value: object) -> None:
        """What code is given, or a function that is to be called."""
        self._look([value])

    def follow(self) -> None:
        """Go on from where it began, as far as names lead."""
        while self._waiting:
            with suppress(Exception):  # an object of somebody's own may do anything when it is looked at
                self._into(self._waiting.popleft())

    def _look(self, values: Iterable[Any]) -> None:
        for value in values:
            if type(value) not in PLAIN and id(value) not in self._reached and len(self._reached) < MOST:
                self._reached[id(value)] = value
                self._waiting.append(value)

    def _into(self, value: Any) -> None:
        kind = type(value)
        if issubclass(kind, FunctionType):
            self._function(value)
        elif issubclass(kind, MethodType):
            self._look([value.__self__, value.__func__])
        elif issubclass(kind, BuiltinMethodType):
            self._look([value.__self__])
        elif issubclass(kind, GeneratorType):
            self.begin(value.gi_frame)
        elif issubclass(kind, partial):
            self._look([value.func, *value.args, *value.keywords.values()])
        elif issubclass(kind, CACHED):
            self._look([value.__wrapped__])
        elif issubclass(kind, type):
            self._class(value)
        elif issubclass(kind, (tuple, frozenset, *BASES)):
            self._container(value)
        elif issubclass(kind, Optimizer):
            self._look([value.param_groups, value.state])
        elif not issubclass(kind, ModuleType):
            self._object(value)

    def _container(self, value: Any) -> None:
        self._whole.add(id(value))
        if len(value) <= MOST_ENTRIES:
            self._look([*value, *value.values()] if isinstance(value, dict) else list(value))

    def _object(self, value: Any) -> None:
        """What is named of an object of the user's; all of one that code of Python or torch works on."""
        content = attributes_of(value)
        if isinstance(value, nn.Module):
            content = {
                name: part for registry in REGISTRIES for name, part in list(content[registry].items())
            } | content
        self._class(type(value))
        if root_of(type(value).__module__) in WHOLE:
            self._whole.add(id(value))
            self._look(content.values())
        elif is_users(type(value).__module__) or isinstance(value, SimpleNamespace | LRScheduler):
            self._withhold(content)

    def _withhold(self, content: Mapping[str, Any]) -> None:
        """Look at what is named, and at the rest once it is."""
        for name, part in content.items():
            if name in self._calls.names:
                self._look([part])
            else:
                self._unnamed.setdefault(name, []).append(part)

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if is_users(base.__module__) and id(base) not in self._whole:
                self._reached[id(base)] = base
                self._withhold({name: part for name, part in list(vars(base).items()) if not callable(part)})
        self._look(self._calls.meet(kind))

    def _function(self, function: FunctionType) -> None:
        if not is_users(function.__module__):
            return
        self._look(
            [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]
        )
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # one that is empty yet
                self._look([cell.cell_contents])
        self._code(function.__code__, function.__globals__)

    def _code(self, code: CodeType, scope: dict[str, Any]) -> None:
        found = named_in(code)
        names = {*found.variables, *found.attributes, *code.co_freevars, *code.co_cellvars}
        if is_users(scope.get("__name__")):  # not where a library's decorator is around it
            self._variables(scope, found.variables, found.attributes)
        self._look(self._calls.learn(names))
        for name in names & self._unnamed.keys():
            self._look(self._unnamed.pop(name))

    def _variables(self, scope: dict[str, Any], names: Iterable[str], attributes: Iterable[str]) -> None:
        """Global variables; of the user's modules among them those that are named."""
        self._reached[id(scope)] = scope
        for value in [scope[name] for name in names if name in scope]:
            self._look([value])
            if type(value) is ModuleType and is_users(value.__name__):
                self._variables(vars(value), attributes, ())
