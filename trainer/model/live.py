"""Runs the live model in the middle of training so that nothing about the run shows that it happened."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trainer.errors import CaptureError
from trainer.model.wrappers import unwrap
from trainer.restoring.attributes import attributes_kept
from trainer.restoring.beside import Beside
from trainer.restoring.held import Held, memory_kept
from trainer.restoring.modules import modules_of
from trainer.restoring.postponed import postponed
from trainer.restoring.registered import parameters_kept, registered_kept
from trainer.restoring.undisturbed import undisturbed

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@contextmanager
def live(model: nn.Module) -> Iterator[nn.Module]:
    """The unwrapped model in evaluation mode, without gradients and compilation; everything is put back after it.

    Modes, gradients, `requires_grad`, random states, buffers, and what modules, hooks and the code of `forward` note
    down are as before, bit by bit; so are parameters to which `forward` gives other memory, and small ones that it
    writes into. CaptureError where those are large, or where there is an iterator that cannot be put back.
    """
    inner = unwrap(model)
    with ExitStack() as stack:
        stack.enter_context(postponed())
        beside = Beside()
        stack.enter_context(undisturbed(inner, beside))
        stack.enter_context(registered_kept(inner, strict=True, beside=beside))
        if fleeting := stack.enter_context(attributes_kept(inner, beside=beside)):
            raise CaptureError(
                f"the model draws from an iterator, {fleeting[0]!r}, and what a pass takes from it cannot be put back; "
                "count in an attribute instead"
            )
        stack.enter_context(parameters_kept(inner, beside))
        stack.enter_context(memory_kept(inner))
        stack.enter_context(_in_evaluation_mode(inner))
        stack.enter_context(_without_fast_paths(inner))
        stack.enter_context(without_autocast_cache())
        stack.enter_context(without_parametrization_cache())
        stack.enter_context(eagerly())
        stack.enter_context(outside_inference_mode())
        stack.enter_context(np.errstate(all="ignore"))  # a loop may have numpy raise; what is not finite is looked for
        yield inner


def device_of(model: nn.Module) -> torch.device:
    """Where the model takes its inputs: the device of its first parameter."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def written(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Write values into parameters by name, and put the old ones back bit by bit, whatever happens.

    Autograd does not notice: a graph that is waiting for its backward pass stays valid. A parameter that was given
    other memory meanwhile has its own again.
    """
    before = {name: Held.of(model.get_parameter(name), content=True) for name in values}
    try:
        for name, held in before.items():
            held.parameter.data.copy_(values[name])
        yield
    finally:
        for held in before.values():
            held.put_back()


@contextmanager
def _in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set the flags, and nothing else: an `eval()` of one's own may do more, like merging an adapter's weights."""
    modes = [(module, module.training) for module in modules_of(model)]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _without_fast_paths(model: nn.Module) -> Iterator[None]:
    """Encoders pad as in training, not as nested tensors; embeddings do not scale their own rows down in a pass."""
    fast = torch.backends.mha.get_fastpath_enabled()
    scaled = [(module, module.max_norm) for module in modules_of(model) if isinstance(module, EMBEDDINGS)]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for module, _ in scaled:
            module.max_norm = None
        yield
    finally:
        for module, norm in scaled:
            module.max_norm = norm
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Without gradients; what is made here is not an inference tensor, which no loop could train with."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def without_autocast_cache() -> Iterator[None]:
    """Inside the caller's `autocast`, casts of weights are not remembered: weights change between passes."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextmanager
def without_parametrization_cache() -> Iterator[None]:
    """Inside the caller's `parametrize.cached()`, weights that are computed here are not those of the loop's passes.

    They have no gradients, and weights change between passes. What the loop has computed stays for it.
    """
    enabled, cache = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = enabled, cache


@contextmanager
def eagerly() -> Iterator[None]:
    """Compiled parts run as they were written, or hooks would not see their layers; nothing is compiled anew."""
    stance = getattr(torch.compiler, "set_stance", None)
    if stance is None or "torch._dynamo" not in sys.modules:
        yield
        return
    with stance("force_eager"):
        yield
