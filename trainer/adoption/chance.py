"""Whether a score is left to chance: what a validation draws, the same with other draws, and what gains are worth then.

A look puts random generators back, so that two validations at one time draw the same numbers. That hides how far a
score depends on them: it has to be asked for.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import isfinite, sqrt
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.restoring.draws import generators_of

DRAWS = 8
"""So many further draws confirm a gain, the same ones before and after."""
SURE = 3.0
"""Standard errors by which a mean gain has to differ from 0: with 8 draws, chance alone does in one of a hundred."""
FIRST_SEED = 0x6D5EED
"""Of the first of all draws; a validation's own seeds are other ones."""
STRIDE = 1000
"""Seeds of ranks are this far apart, as each draws other data."""
NAMED = 3
"""So many modules are named."""


@dataclass(frozen=True)
class Source:
    """A random generator: what it is like now, as a value to compare, and a way to have it begin at a seed."""

    state: Callable[[], object]
    seed: Callable[[int], object]


def sources(within_reach: Iterable[Any]) -> list[Source]:
    """The global generators, and those that are within reach of a validation."""
    on_gpu = torch.cuda.default_generators if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    found = [_source(one) for one in (torch.default_generator, *on_gpu, *generators_of(within_reach))]
    return [*found, Source(_of_numpy, np.random.seed), Source(random.getstate, random.seed)]


def _of_numpy() -> object:
    return _plain(np.random.get_state(legacy=False))


def _source(generator: Any) -> Source:
    if isinstance(generator, torch.Generator):
        return Source(lambda: generator.get_state().numpy().tobytes(), generator.manual_seed)
    if isinstance(generator, np.random.Generator):
        numbers = generator.bit_generator
        return Source(
            lambda: _plain(numbers.state),
            lambda seed: setattr(numbers, "state", type(numbers)(seed).state),
        )
    if isinstance(generator, np.random.RandomState):
        return Source(lambda: _plain(generator.get_state(legacy=False)), generator.seed)
    return Source(generator.getstate, generator.seed)


def _plain(state: Any) -> object:
    """The state of a generator of numpy's without arrays, which do not compare to one truth."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


def states(found: Iterable[Source]) -> list[object]:
    """What they are like now; None of one that does not say, as the operating system's."""
    return [_tried(source.state) for source in found]


def draw_anew(found: Iterable[Source], number: int, rank: int = 0) -> None:
    """Have all of them begin at the seed of this draw."""
    for source in found:
        _tried(partial(source.seed, FIRST_SEED + STRIDE * STRIDE * rank + number))


def _tried(ask: Callable[[], object]) -> object:
    with suppress(Exception):  # a generator of somebody's own may be without a state, or a seed
        return ask()
    return None


# --- modules that score otherwise in training mode --------------------------------------------------------------------


@contextmanager
def training_modes_noted(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Note the modules that run in training mode meanwhile, of those to which that makes a difference."""
    hooks = []
    for name, module in model.named_modules():
        if _differs(module):
            with suppress(Exception):  # a scripted module takes no hooks
                hooks.append(module.register_forward_pre_hook(partial(_note, found, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _differs(module: nn.Module) -> bool:
    """Whether a module draws, or goes by its batch, in training mode."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return module.dropout > 0
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _note(found: list[str], name: str, module: nn.Module, _: object) -> None:
    told = f"{type(module).__name__} {name!r}"
    if module.training and told not in found:
        found.append(told)


def listed(names: Sequence[str]) -> str:
    """The first of them, and how many there are besides."""
    left = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {left} more" if left > 0 else "")


# --- what gains are worth ---------------------------------------------------------------------------------------------


def is_beyond_chance(gains: Sequence[float]) -> bool:
    """Whether the mean of gains, each of another draw, is above 0 by more than what chance would explain.

    Always where a score was NaN or infinite before: from there no gain has a spread.
    """
    if not all(map(isfinite, gains)):
        return fmean(gains) > 0
    return fmean(gains) > SURE * stdev(gains) / sqrt(len(gains))
