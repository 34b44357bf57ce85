"""Puts back what modules register: buffers and their contents, and whatever a forward pass adds to a module."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from trainer.errors import CaptureError
from trainer.snapshots import tensors
from trainer.snapshots.held import Held
from trainer.snapshots.tensors import Room, remembered

QUIET: WeakSet[nn.Module] = WeakSet()
"""Models that have been run without writing into their parameters."""


@contextmanager
def registered_kept(model: nn.Module) -> Iterator[None]:
    """Put small buffers back, since some modules count or cache in them on every pass, and take out what is new."""
    modules, room = list(model.modules()), Room()
    # what is scripted or traced registers nothing any more
    names = [
        (module, _registries(module), set(module._non_persistent_buffers_set))
        for module in modules
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    buffers = [value for module in modules for value in module.buffers(recurse=False) if value is not None]
    undo = [step for value in buffers if (step := remembered(value, room)) is not None]
    try:
        yield
    finally:
        for module, before, fleeting in names:
            for registry, entries in zip(_live(module), before, strict=True):
                registry.clear()
                registry.update(entries)
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(fleeting)
        for step in undo:
            step()


@contextmanager
def parameters_kept(model: nn.Module) -> Iterator[None]:
    """Put parameters back that a pass writes into; CaptureError where they could not be remembered.

    They are copied before the first pass alone, and where they are small: a model that leaves them alone then is taken
    to do so ever after.
    """
    named = list(nn.Module.named_parameters(model))
    versions = [parameter._version for _, parameter in named]
    quiet = model in QUIET or not _small(named)
    copies = [] if quiet else [Held.of(parameter, content=True) for _, parameter in named]
    try:
        yield
    finally:
        written = [number for number, (_, parameter) in enumerate(named) if parameter._version != versions[number]]
        if copies:
            written = [number for number, copy in enumerate(copies) if number in written or copy.changed]
        for number in written if copies else []:
            copies[number].put_back()
    if not written:
        QUIET.add(model)
    elif not copies:
        raise CaptureError(f"the model writes into its own parameter {named[written[0]][0]} when it is run")


def _small(named: Sequence[tuple[str, nn.Parameter]]) -> bool:
    lazy = any(is_lazy(parameter) for _, parameter in named)
    return not lazy and sum(parameter.numel() for _, parameter in named) <= tensors.MOST_ELEMENTS


def _live(module: nn.Module) -> tuple[dict[str, object], ...]:
    return module._buffers, module._parameters, module._modules  # type: ignore[return-value]


def _registries(module: nn.Module) -> list[dict[str, object]]:
    return [dict(registry) for registry in _live(module)]
