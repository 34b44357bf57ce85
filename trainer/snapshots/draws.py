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
    owners = [owner for source in sources for owner in (source, getattr(source, "sampler", None))]
    found = [owner if isinstance(owner, torch.Generator) else getattr(owner, "generator", None) for owner in owners]
    states = [(one, one.get_state()) for one in found if isinstance(one, torch.Generator)]
    try:
        yield
    finally:
        for one, state in states:
            one.set_state(state)


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
