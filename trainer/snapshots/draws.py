"""Puts random generators back that are not torch's own: those of data loaders, and of what a validation is made of."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import MethodType
from typing import Any

import torch


@contextmanager
def draws_kept(sources: Iterable[Any]) -> Iterator[None]:
    """Put generators back, those that loaders have to themselves included: a pass more must not change later passes."""
    states = [(one, one.get_state()) for source in sources for one in _generators(source)]
    try:
        yield
    finally:
        for one, state in states:
            one.set_state(state)


def _generators(source: Any) -> Iterator[torch.Generator]:
    """A generator itself, or those of a loader and its sampler; of other objects whatever they have by that name."""
    with suppress(Exception):  # an object of somebody's own may do anything when it is asked for a name
        for owner in (source, getattr(source, "sampler", None)):
            found = owner if isinstance(owner, torch.Generator) else getattr(owner, "generator", None)
            if isinstance(found, torch.Generator):
                yield found


def within_reach(function: Callable[..., object]) -> list[Any]:
    """What a function's code names around it: variables of outer functions and global ones, and what it is bound to."""
    found = list[Any]()
    while isinstance(function, partial):
        found += [*function.args, *function.keywords.values()]
        function = function.func
    if isinstance(function, MethodType):
        found += vars(function.__self__).values() if hasattr(function.__self__, "__dict__") else ()
        function = function.__func__
    with suppress(TypeError, ValueError):  # no function of Python's
        named = inspect.getclosurevars(function)
        found += [*named.nonlocals.values(), *named.globals.values()]
    return found
