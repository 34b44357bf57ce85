"""Runs the live model in the middle of training so that nothing about the run shows that it happened."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from trainer.snapshots.attributes import attributes_kept
from trainer.snapshots.blocks import unwrap
from trainer.snapshots.undisturbed import undisturbed

MOST_BUFFER_ELEMENTS = 1_000_000
"""Of all buffers together: models that write into larger ones in evaluation mode keep what they wrote."""


@contextmanager
def live(model: nn.Module) -> Iterator[nn.Module]:
    """The unwrapped model in evaluation mode, without gradients and compilation; everything is put back after it.

    Modes, gradients, `requires_grad`, random states, small buffers and what modules note down in attributes are as
    before, bit by bit.
    """
    inner = unwrap(model)
    with ExitStack() as stack:
        stack.enter_context(undisturbed(inner))
        stack.enter_context(_buffers_kept(inner))
        stack.enter_context(attributes_kept(inner))
        stack.enter_context(_in_evaluation_mode(inner))
        stack.enter_context(_without_autocast_cache())
        stack.enter_context(eagerly())
        stack.enter_context(torch.no_grad())
        stack.enter_context(np.errstate(all="ignore"))  # a loop may have numpy raise; what is not finite is looked for
        yield inner


def device_of(model: nn.Module) -> torch.device:
    """Where the model takes its inputs: the device of its first parameter."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def written(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Write values into parameters by name, and put the old ones back bit by bit, whatever happens.

    Autograd does not notice: a graph that is waiting for its backward pass stays valid.
    """
    parameters = {name: model.get_parameter(name).data for name in values}
    before = {name: parameter.clone() for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.copy_(before[name])


@contextmanager
def _in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set the flags, and nothing else: an `eval()` of one's own may do more, like merging an adapter's weights."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put small buffers back: some modules count or cache in them on every forward pass."""
    kept, room = [], MOST_BUFFER_ELEMENTS
    for module in model.modules():
        for name, value in module._buffers.items():
            if value is not None and value.numel() <= room:
                room -= value.numel()
                kept.append((module, name, value, value.detach().clone()))
    try:
        yield
    finally:
        for module, name, value, content in kept:
            module._buffers[name] = value
            if not torch.equal(value, content):
                value.data.copy_(content)


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """Inside the caller's `autocast`, casts of weights are not remembered: weights change between passes."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextmanager
def eagerly() -> Iterator[None]:
    """Compiled parts run as they were written, or hooks would not see their layers; nothing is compiled anew."""
    stance = getattr(torch.compiler, "set_stance", None)
    if stance is None or "torch._dynamo" not in sys.modules:
        yield
        return
    with stance("force_eager"):
        yield
