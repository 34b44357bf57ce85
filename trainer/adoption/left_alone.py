"""Leaves layers alone whose weights the loop keeps by itself: an answer would break what it keeps.

A layer is looked at where a tunnel looks anyway. Of the optimizer's steps one is looked at after each, for gradients.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from shared.constraints import grid_steps, selected, sign_limits
from shared.contracts import Constraint
from trainer.adoption.begun import is_direction
from trainer.adoption.habits import Habit, Look, Mask, Weights, habit_of
from trainer.adoption.stillness import Stillness
from trainer.journal import Journal
from trainer.model.blocks import Values, named, parameters_by_name
from trainer.model.movable import Movable
from trainer.speaking import logger

MOST_LOOKED_AT = 1 << 16
"""Entries of a layer: of a larger one every so many rows, and columns."""
MOST_AT_FIRST = 1 << 22
"""Entries of all layers together that are looked at in the first batch."""
FLOAT32 = 4
"""Bytes of a weight."""
Adoption = tuple[Values, Values]
"""What there was before one, and with what the loop went on."""


class Habits:
    """What was seen of the layers of one tunneller; those that a loop keeps may not move, as `movable` says then."""

    def __init__(self, movable: Movable, journal: Journal, constraints: Sequence[Constraint]) -> None:
        self._movable, self._journal, self._constraints = movable, journal, constraints
        self._stillness = Stillness(movable, journal)
        self._seen: dict[str, tuple[Weights, Weights | None]] = {}
        """The two latest that were others, the last one first."""
        self._found: dict[str, Habit] = {}
        self._adopted: dict[str, int] = {}

    def begin(self, layers: Sequence[str]) -> None:
        """A first look, to be compared with later ones."""
        left = MOST_AT_FIRST
        for name, weight in self._matrices(named(layer, "weight") for layer in reversed(layers)):
            left -= weight.numel()
            if left >= 0:
                self._seen[name] = _thin(weight), None
        self._stillness.begin(layers)

    def adopted(self, names: Collection[str]) -> None:
        """These have new values, which say nothing of the loop before the optimizer's next step."""
        self._adopted |= dict.fromkeys(names, self._journal.gd_step)
        self._stillness.begin(_layers_of(names))

    def look(
        self,
        names: Collection[str],
        adoption: Adoption | None = None,
        sees: Callable[[Look], Habit | None] = habit_of,
        *,
        reached: bool = False,
    ) -> dict[str, str]:
        """The layers that may not move from now on, by name, and why; `sees` says what to look for.

        After an `adoption` gradients say nothing: the optimizer need not have stepped by them. `reached`: no layer is
        dead on all samples, which would be another reason for gradients of 0.
        """
        found = {} if adoption is not None else self._stillness.look(_layers_of(names), reached=reached)
        for name, weight in self._matrices(names):
            if adoption is None and self._adopted.get(name, -1) == self._journal.gd_step:
                continue
            seen, layer = self._look(name, weight, adoption), name.rpartition(".")[0]
            if name not in self._seen or not np.array_equal(self._seen[name][0], seen.now):
                self._seen[name] = seen.now, seen.earlier
            if layer not in self._movable.kept and (kept := sees(seen)) is not None:
                self._found[layer], self._movable.kept[layer] = kept, kept.why
                found[layer] = kept.why
                logger.warning("layer %r is not tunnelled: %s", layer, kept.why)
        return found

    def look_again(self) -> None:
        """Layers whose weights the loop no longer keeps or holds still may move."""
        self._stillness.look_again()
        if not self._found:
            return
        weights = {name.rpartition(".")[0]: weight for name, weight in self._matrices(self._seen)}
        for layer, kept in list(self._found.items()):
            now = _thin(weights[layer]) if layer in weights else None
            if now is None or now.shape != kept.shape or kept.breaks(now):
                del self._found[layer], self._movable.kept[layer]

    def _matrices(self, names: Iterable[str]) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights among these parameters; biases say nothing."""
        own = parameters_by_name(self._movable.model)
        for name in names:
            weight = own.get(name) if name.rpartition(".")[2] == "weight" else None
            if weight is not None and not is_lazy(weight) and weight.dim() > 1 and weight.numel() > 1:
                yield name, weight

    def _look(self, name: str, weight: nn.Parameter, adoption: Adoption | None) -> Look:
        now, began, seen = _thin(weight), None, self._seen.get(name, (None, None))
        earlier, eldest = (one if one is not None and one.shape == now.shape else None for one in seen)
        if adoption is not None:
            earlier, began = (_thin(torch.from_numpy(values[name])) for values in adoption)
        pushed = self._pushed(weight, gradients=adoption is None)
        coarse = weight.element_size() < FLOAT32
        return Look(now, earlier, pushed, *_said(self._constraints, weight), coarse, began, eldest)

    def _pushed(self, weight: nn.Parameter, *, gradients: bool) -> Mask | None:
        state = self._movable.optimizer.state.get(weight, {})
        alike = [value for value in state.values() if isinstance(value, Tensor) and value.shape == weight.shape]
        ways = [value for name, value in state.items() if is_direction(name) and any(value is one for one in alike)]
        if not ways and gradients and weight.grad is not None and weight.grad.layout == torch.strided:
            ways = [weight.grad]
        return np.logical_or.reduce([_thin(way) != 0 for way in ways]) if ways else None


def _layers_of(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _said(constraints: Sequence[Constraint], weight: Tensor) -> tuple[Mask, Mask, Mask, Mask]:
    """Of which weights constraints say that they are 0 or more, 0 or less, of some values, and that they may be 0."""
    shape = (len(weight), math.prod(weight.shape[1:]))
    rows, columns = _strides(shape)
    nothing = np.zeros((len(range(0, shape[0], rows)), len(range(0, shape[1], columns))), dtype=bool)
    if not constraints:
        return nothing, nothing, nothing, nothing
    try:
        low, high = (limit == 0 for limit in sign_limits(constraints, shape))
        valued = (grid_steps(constraints, shape) > 0) | _selected(constraints, "levels", shape)
        zeros = low | high | valued | _selected(constraints, "max_nonzero", shape)
    except IndexError:  # they speak of another layer
        return nothing, nothing, nothing, nothing
    return low[::rows, ::columns], high[::rows, ::columns], valued[::rows, ::columns], zeros[::rows, ::columns]


def _selected(constraints: Sequence[Constraint], kind: str, shape: tuple[int, int]) -> Mask:
    found = np.zeros(shape, dtype=bool)
    for constraint in constraints:
        if constraint.type == kind:
            found |= selected(constraint, shape)
    return found


def _strides(shape: tuple[int, int]) -> tuple[int, int]:
    rows = min(shape[0], math.ceil(shape[0] * shape[1] / MOST_LOOKED_AT))
    return rows, math.ceil(math.ceil(shape[0] / rows) * shape[1] / MOST_LOOKED_AT)


def _thin(values: Tensor) -> Weights:
    """A copy of some of the values, as a matrix [rows, columns] in float32."""
    matrix = values.detach().reshape(len(values), -1)
    rows, columns = _strides((matrix.shape[0], matrix.shape[1]))
    return np.array(matrix[::rows, ::columns].to("cpu", torch.float32).numpy())
