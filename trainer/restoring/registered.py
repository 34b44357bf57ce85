"""Puts back what modules register: buffers and their contents, and whatever a forward pass adds to a module."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from trainer.errors import CaptureError
from trainer.restoring import tensors
from trainer.restoring.beside import Beside
from trainer.restoring.held import Held
from trainer.restoring.modules import Entries, buffers_of, modules_of, parameters_of
from trainer.restoring.tensors import Contents

QUIET: WeakSet[nn.Module] = WeakSet()
"""Models that have been run without writing into their parameters."""
NONE: set[str] = set()


@contextmanager
def registered_kept(model: nn.Module, *, strict: bool = False, beside: Beside | None = None) -> Iterator[None]:
    """Put buffers back, since some modules count or cache in them on every pass, and take out what is new.

    With `strict`, CaptureError where a pass wrote into one that is too large to be remembered. What may be the doing of
    threads `beside` the pass stays.
    """
    others = beside or Beside()
    modules = modules_of(model)
    # what is scripted or traced registers nothing any more
    open_ones = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    before = Entries(_registries(open_ones))
    fleeting = [set(found) if (found := module._non_persistent_buffers_set) else NONE for module in open_ones]
    contents = Contents({id(value): value for value in buffers_of(modules)}.values())
    try:
        yield
    finally:
        registries = _registries(open_ones)
        for number, entries in before.changed(registries):
            registries[number].clear()
            registries[number].update(entries)
        for module, names in zip(open_ones, fleeting, strict=True):
            if module._non_persistent_buffers_set != names:
                module._non_persistent_buffers_set.clear()
                module._non_persistent_buffers_set.update(names)
        moved = contents.put_back(others)
    if strict and moved:
        told = next((name for name, buffer in nn.Module.named_buffers(model) if buffer is moved[0]), "")
        raise CaptureError(
            f"the model writes into its large buffer {told} when it is run; let it write there "
            "in training mode only, or hold it outside the model"
        )


@contextmanager
def parameters_kept(model: nn.Module, beside: Beside | None = None) -> Iterator[None]:
    """Put parameters back that a pass writes into; CaptureError where they could not be remembered.

    They are copied before the first pass alone, and where they are small: a model that leaves them alone then is taken
    to do so ever after. What may be the doing of threads `beside` the pass stays.
    """
    others = beside or Beside()
    own = parameters_of(modules_of(model))
    versions = [parameter._version for parameter in own]
    quiet = model in QUIET or not _small(own)
    copies = [] if quiet else [Held.of(parameter, content=True) for parameter in own]
    try:
        yield
    finally:
        written = [number for number, parameter in enumerate(own) if parameter._version != versions[number]]
        if copies:
            written = [number for number, copy in enumerate(copies) if number in written or copy.changed]
        written = [number for number in written if not others.wrote(own[number])]
        for number in written if copies else []:
            copies[number].put_back()
    if not written:
        QUIET.add(model)
    elif not copies:
        names = {id(parameter): name for name, parameter in nn.Module.named_parameters(model)}
        told = names.get(id(own[written[0]]), "")
        raise CaptureError(f"the model writes into its own parameter {told} when it is run")


def _small(own: Sequence[nn.Parameter]) -> bool:
    return not any(map(is_lazy, own)) and sum(parameter.numel() for parameter in own) <= tensors.MOST_ELEMENTS


def _registries(modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    return [registry for module in modules for registry in (module._buffers, module._parameters, module._modules)]
