"""Puts random generators back that are not global: those of data loaders, and of what a validation is made of."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from trainer.restoring.reach import within_reach

__all__ = ["draws_kept", "generators_of", "within_reach"]

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
INSIDE = (("sampler",), ("batch_sampler",), ("batch_sampler", "sampler"), ("dataset",), ("dataset", "dataset"))
"""Where loaders have generators that are not their own."""


@contextmanager
def draws_kept(sources: Iterable[Any]) -> Iterator[None]:
    """Put generators back, those that loaders have to themselves included: a pass more must not change later passes."""
    undo = [step for one in generators_of(sources) if (step := _remembered(one)) is not None]
    try:
        yield
    finally:
        for step in undo:
            step()


def generators_of(sources: Iterable[Any]) -> list[Any]:
    """Those of several sources, each once."""
    found = {id(one): one for source in sources for one in _generators(source)}
    return list(found.values())


def _generators(source: Any) -> Iterator[Any]:
    """A generator itself, or those of a loader and of what it draws from; of other objects whatever they hold."""
    if isinstance(source, GENERATORS):
        yield source
        return
    for path in ((), *INSIDE):
        with suppress(Exception):  # an object of somebody's own may do anything when it is asked for a name
            owner = source
            for name in path:
                owner = getattr(owner, name) if name == "sampler" else vars(owner)[name]  # a property may load data
            held = vars(owner).values() if hasattr(owner, "__dict__") else ()
            yield from (one for one in (getattr(owner, "generator", None), *held) if isinstance(one, GENERATORS))


def _remembered(generator: Any) -> Callable[[], object] | None:
    """What puts a generator's state back; None of one that has none, as the operating system's."""
    if isinstance(generator, np.random.Generator):
        numbers = generator.bit_generator.state
        return lambda: setattr(generator.bit_generator, "state", numbers)
    with suppress(NotImplementedError):
        if isinstance(generator, random.Random):
            drawn = generator.getstate()
            return lambda: generator.setstate(drawn)
        state = generator.get_state()
        return lambda: generator.set_state(state)
    return None
