"""Errors cross processes: a pool of them would hide one that cannot be pickled, message and all."""

import copy
import inspect
import pickle
from types import ModuleType
from typing import Any

import pytest

import shared.errors
import solver_service.errors
import trainer.errors
from shared.contracts import Problem
from shared.errors import ErrorCode

PROBLEM = Problem(title="no", status=422, detail="too wide", code=ErrorCode.INVALID_SPEC, field="radius")
GIVEN = {"problem": PROBLEM, "field": "radius", "code": ErrorCode.INVALID_SPEC, "layer": "head", "always": True}
"""An argument for each name that a constructor asks for; any other is a text."""


def errors_of(module: ModuleType) -> list[type[BaseException]]:
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    return [kind for kind in kinds if issubclass(kind, BaseException)]


def made(kind: type[BaseException]) -> BaseException:
    """An error with every argument that its constructor names."""
    own = next(base for base in kind.__mro__ if "__init__" in vars(base))
    if own.__module__ == "builtins":
        return kind("what it says")
    parameters = [each for name, each in inspect.signature(vars(own)["__init__"]).parameters.items() if name != "self"]
    keyword = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    values: dict[str, Any] = {each.name: GIVEN.get(each.name, "what it says") for each in parameters}
    positional = [value for name, value in values.items() if name not in keyword]
    return kind(*positional, **{name: values[name] for name in keyword})


@pytest.mark.parametrize(
    "kind",
    [kind for module in (trainer.errors, shared.errors, solver_service.errors) for kind in errors_of(module)],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_every_error_survives_pickling(kind: type[BaseException]) -> None:
    """It comes back from another process, and from a copy, with its type, its message and all that it holds."""
    error = made(kind)
    error.add_note("on task digits")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
