"""Sees which layers a loop holds still by other means than `requires_grad`: what GD may not move, no answer moves.

Their rate may be 0 while others' are not. Or no gradient comes to them: it is taken away before the step, or they run
under `no_grad`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from trainer.journal import Journal
from trainer.model.blocks import named
from trainer.model.eligibility import ANOTHER
from trainer.model.movable import Movable
from trainer.speaking import logger

MOST_LOOKED_AT = 1024
"""Entries of a parameter; of a larger one every so many."""
NO_RATE = f"the learning rate of its {{}} is 0 by now while others' are not; give it one, or {ANOTHER}"
NO_GRADIENT = f"the loop holds it still: no gradient comes to its {{}}; have it trained as others are, or {ANOTHER}"


@dataclass(frozen=True, eq=False)
class _Seen:
    """Some of a parameter's values, and after how many steps of the optimizer."""

    values: Tensor
    gd_step: int


class Stillness:
    """What was seen of the layers of one tunneller: some of their values, and what had no gradient at a step."""

    def __init__(self, movable: Movable, journal: Journal) -> None:
        self._movable, self._journal = movable, journal
        self._layers: dict[str, None] = {}
        self._found: dict[str, str] = {}
        self._said: set[tuple[str, str]] = set()
        self._seen: dict[str, _Seen] = {}
        self._bare: frozenset[str] = frozenset()
        """Parameters without a gradient at the step that was looked at, where others had one."""

    def begin(self, layers: Iterable[str]) -> None:
        """A first look, to be compared with later ones."""
        for layer in layers:
            self._is_still(layer, self._own(layer))

    def look(self, layers: Collection[str], *, reached: bool) -> dict[str, str]:
        """Those of the layers that the loop holds still by now, by name, and why.

        Where one is, all others that were ever seen are looked at as well: to find one at a time would cost a pass for
        each. `reached`: no layer is dead on all samples, so that gradients of 0 are the loop's own doing.
        """
        found = self._held(layers, reached=reached)
        if found:
            found |= self._held(self._layers, reached=reached)
        for why in dict.fromkeys(found.values()):
            told = [layer for layer, one in found.items() if one == why and (layer, why) not in self._said]
            self._said.update((layer, why) for layer in told)  # which may be held in turns
            if told:
                several = "layers %s are" if told[1:] else "layer %s is"
                logger.warning(f"{several} not tunnelled: %s", ", ".join(map(repr, told)), why)
        return found

    def look_again(self) -> None:
        """Layers that the loop no longer holds may move."""
        for layer, why in list(self._found.items()):
            if not self._holds(layer, why):
                del self._found[layer], self._movable.kept[layer]

    def _held(self, layers: Iterable[str], *, reached: bool) -> dict[str, str]:
        known = self._movable()
        free = [layer for layer in layers if layer in known and known[layer].why is None]
        whys = {layer: self._why(layer, reached=reached) for layer in free}
        found = {layer: why for layer, why in whys.items() if why is not None}
        self._found |= found
        self._movable.kept |= found
        return found

    def _why(self, layer: str, *, reached: bool) -> str | None:
        """Why the loop holds a layer still by now, or None."""
        own = self._own(layer)
        still = self._is_still(layer, own)
        if (part := self._without_rate(own)) is not None:
            return NO_RATE.format(part)
        part = next((part for part in still if named(layer, part) in self._bare), None)
        if part is None and reached and len(still) == len(own) and self._only_zeros(own.values()):
            part = next(iter(still), None)
        return None if part is None else NO_GRADIENT.format(part)

    def _holds(self, layer: str, why: str) -> bool:
        """Whether the loop still holds a layer that it was found to hold, for this reason."""
        own, rates = self._own(layer), _rates(self._movable.optimizer)
        if any(why == NO_RATE.format(part) for part in own):
            return any(rates.get(id(one)) == 0.0 for one in own.values())
        return any(self._stayed(named(layer, part), one) for part, one in own.items())

    def _is_still(self, layer: str, own: Mapping[str, Tensor]) -> list[str]:
        """Take a look: the parts that are as they were to the last bit although the optimizer has stepped since.

        What was seen of those is kept: it says more than a later look at the same values.
        """
        self._layers[layer] = None
        self._journal.next_step = self._note
        found = list[str]()
        for part, one in own.items():
            name = named(layer, part)
            if not self._stayed(name, one):
                self._seen[name] = _Seen(_some(one), self._journal.gd_step)
            elif self._seen[name].gd_step < self._journal.gd_step:
                found.append(part)
        return found

    def _stayed(self, name: str, one: Tensor) -> bool:
        seen = self._seen.get(name)
        return seen is not None and seen.values.dtype == one.dtype and torch.equal(seen.values, _some(one))

    def _note(self) -> None:
        """Once after a look, when the optimizer has stepped: what it had no gradient for."""
        if not any(one.grad is not None for one in _held(self._movable.optimizer)):
            self._journal.next_step = self._note  # this step says nothing
            return
        own = {named(layer, part): one for layer in self._layers for part, one in self._own(layer).items()}
        self._bare = frozenset(name for name, one in own.items() if one.grad is None)

    def _own(self, layer: str) -> dict[str, Tensor]:
        """A layer's own parameters; none where it is there no more."""
        module: Any = self._movable.model
        for part in layer.split(".") if layer else ():
            module = getattr(module, "_modules", {}).get(part)
        own = getattr(module, "_parameters", {})
        return {part: one for part, one in own.items() if one is not None and not is_lazy(one)}

    def _without_rate(self, own: Mapping[str, Tensor]) -> str | None:
        """The part whose rate is 0, where those of others are not."""
        rates = _rates(self._movable.optimizer)
        if not any(rates.values()):  # at the beginning of a warm-up, or at the end of a schedule
            return None
        return next((part for part, one in own.items() if rates.get(id(one)) == 0.0), None)

    def _only_zeros(self, own: Iterable[Tensor]) -> bool:
        """Whether the gradients of these hold nothing but zeros, and others do not."""
        mine = {id(one): one for one in own}
        given = [one for one in mine.values() if one.grad is not None]
        others = (one for one in _held(self._movable.optimizer) if id(one) not in mine)
        return bool(given) and not any(map(_pushed, given)) and any(map(_pushed, others))


def _held(optimizer: Optimizer) -> Iterable[Tensor]:
    return (one for group in optimizer.param_groups for one in group["params"])


def _rates(optimizer: Optimizer) -> dict[int, float]:
    """The learning rates of the parameters that have one, by their ids."""
    found = dict[int, float]()
    for group in optimizer.param_groups:
        rate = group.get("lr")
        if isinstance(rate, int | float | Tensor):
            found |= dict.fromkeys(map(id, group["params"]), float(rate))
    return found


def _pushed(one: Tensor) -> bool:
    """Whether there is a gradient other than 0; one that is not strided counts as one."""
    return one.grad is not None and (one.grad.layout != torch.strided or bool(one.grad.any()))


def _some(one: Tensor) -> Tensor:
    """A copy of some of the values."""
    flat = one.detach().reshape(-1)
    return flat[:: max(1, -(-len(flat) // MOST_LOOKED_AT))].to("cpu", copy=True)
