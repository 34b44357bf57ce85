"""Puts random generators back that are not global: those of data loaders, and of what a validation is made of."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from trainer.restoring.attributes import attributes_kept
from trainer.restoring.behind import behind
from trainer.restoring.beside import Beside
from trainer.restoring.reach import within_reach
from trainer.restoring.undoing import GENERATORS, of_generator

__all__ = ["draws_kept", "generators_of", "loaders_kept", "within_reach"]


@contextmanager
def draws_kept(sources: Iterable[Any], beside: Beside | None = None) -> Iterator[None]:
    """Put generators back, of loaders and of whatever is behind them: a pass more must not change later passes.

    Those that threads `beside` the pass may draw from stay.
    """
    others, undo = beside or Beside(), []
    for found in generators_of(sources):
        with suppress(NotImplementedError):  # the operating system's has no state
            undo.append(of_generator(found))
    try:
        yield
    finally:
        for step in undo:
            step(others)


@contextmanager
def loaders_kept(loaders: Collection[Any]) -> Iterator[None]:
    """Put generators back, and what data sets, transforms and collations of the user's note down."""
    with draws_kept(loaders, beside := Beside()), attributes_kept(nn.Module(), loaders=loaders, beside=beside):
        yield


def generators_of(sources: Iterable[Any]) -> list[Any]:
    """The generators among several sources and behind them, each once."""
    return [found for found in behind(sources) if isinstance(found, GENERATORS)]
