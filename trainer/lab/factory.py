"""Loads the user's own model by the name of the function that makes it, `package.module:factory`."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.errors import TaskError

Factory = Callable[..., Any]


def load_factory(name: str, field: str) -> Factory:
    """The function (or class) that `package.module:factory` names; modules are also looked for in the current folder.

    Raises TaskError, named `field`, if there is none.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise TaskError(f"{name!r} is not of the form package.module:factory", field=field)
    here = str(Path.cwd())
    if here not in sys.path:  # `python -m` has it there, an installed command has not
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        own = module.startswith(error.name or module)
        cure = "; is it misspelt, or is the current folder another one?" if own else f", which {module} imports"
        raise TaskError(f"there is no module {error.name!r}{cure}", field=field) from error
    except AttributeError as error:
        raise TaskError(f"{module} has no {attribute!r}", field=field) from error
    except Exception as error:
        raise TaskError(f"{module} cannot be imported: {_told(error)}", field=field) from error
    if not callable(found):
        raise TaskError(f"{name} is a {type(found).__name__}, not a function that makes a model", field=field)
    return found  # type: ignore[no-any-return]


def call_factory(factory: Factory, name: str, field: str, inputs: int | None, outputs: int | None) -> Any:
    """What the factory returns, called with (inputs, outputs) if it takes two arguments and they are known.

    Else it is called without any. Raises TaskError if it can be called in neither way, or raises an error itself.
    """
    given: tuple[int, ...] = ()
    if inputs is not None and outputs is not None and _takes(factory, inputs, outputs):
        given = (inputs, outputs)
    elif not _takes(factory):
        known = inputs is not None and outputs is not None
        ways = "(inputs, outputs) or no arguments" if known else "no arguments, or two where --inputs and --outputs are"
        raise TaskError(f"{name} is called with {ways}; it takes {_signature(factory)}", field=field)
    try:
        return factory(*given)
    except Exception as error:
        raise TaskError(f"{name} failed: {_told(error)}", field=field) from error


def _takes(factory: Factory, *arguments: int) -> bool:
    try:
        inspect.signature(factory).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # no signature is known
        return not arguments
    return True


def _signature(factory: Factory) -> str:
    return str(inspect.signature(factory))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
