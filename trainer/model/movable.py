"""Remembers which layers may move: to find out takes longer than to see that nothing has changed since."""

from collections.abc import Mapping
from dataclasses import replace
from operator import is_
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainer.model.eligibility import Eligibility, eligible
from trainer.restoring.modules import modules_of


class Movable:
    """What `eligible` says of a model by now; it is asked again where modules, parameters or buffers are others.

    Others, too, are those that were frozen or freed, have another type or size, or lie elsewhere in memory, and those
    that the optimizer has taken up or let go.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.kept: dict[str, str] = {}
        """Layers that the loop keeps in a way that an answer would break, by name, and why they may not move."""
        self._mark: _Mark | None = None
        self._found: Mapping[str, Eligibility] = {}

    def __call__(self) -> Mapping[str, Eligibility]:
        """Every layer by name, and whether it may move."""
        mark = _mark(self.model, self.optimizer)
        if mark is None or not _same(mark, self._mark):
            self._found, self._mark = eligible(self.model, self.optimizer), mark
        if not self.kept:
            return self._found
        return {name: self._with_kept(layer) for name, layer in self._found.items()}

    def _with_kept(self, layer: Eligibility) -> Eligibility:
        return layer if layer.why is not None else replace(layer, why=self.kept.get(layer.name))


_Mark = tuple[list[object], list[object]]
"""Objects that have to be the very same, and plain facts about them that have to be equal."""


def _mark(model: nn.Module, optimizer: Optimizer) -> _Mark | None:
    """What the answer depends on; None where a tensor does not say where its values are."""
    objects, facts = list[object](), list[object]()
    for module in modules_of(model):
        objects += (module, type(module))
        for registry in (module._parameters, module._buffers):
            if not registry:
                continue
            try:
                for name, tensor in registry.items():
                    objects.append(tensor)
                    facts += (name, *_facts(tensor))
            except Exception:  # one that has no values yet, or a class of somebody's own
                return None
    for group in optimizer.param_groups:
        objects += group["params"]
        facts += group
    return objects, facts


def _facts(tensor: Any) -> tuple[object, ...]:
    if tensor is None:
        return ()
    hooked = bool(tensor._backward_hooks)
    named = len(vars(tensor))
    return type(tensor), tensor.requires_grad, tensor.dtype, tensor.numel(), tensor.data_ptr(), named, hooked


def _same(mark: _Mark, other: _Mark | None) -> bool:
    if other is None or len(mark[0]) != len(other[0]):
        return False
    return all(map(is_, mark[0], other[0])) and mark[1] == other[1]
