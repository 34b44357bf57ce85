"""Sees what a loop keeps of its weights by itself (masks, signs, bounds, norms), which an answer would break.

A mask that is multiplied in after each step, or a clamp, stands nowhere in the model. But weights that are exactly 0
although the optimizer pushes them, or that share their largest value to the last bit, are nobody's chance.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from shared.constraints import grid_steps, selected, sign_limits
from shared.contracts import Constraint
from trainer.adoption.begun import is_direction
from trainer.journal import Journal
from trainer.model.blocks import Values, named, parameters_by_name
from trainer.model.eligibility import ANOTHER
from trainer.model.movable import Movable
from trainer.speaking import logger

Weights = NDArray[np.float32]
Mask = NDArray[np.bool_]
MOST_LOOKED_AT = 1 << 16
"""Entries of a layer: of a larger one every so many rows, and columns."""
MOST_AT_FIRST = 1 << 22
"""Entries of all layers together that are looked at in the first batch."""
SEVERAL, SHARE = 2, 1e-3
"""Weights at 0, at least, and of all weights, before they count as kept there."""
POSITIVE = 8
"""Weights of one sign that are no chance."""
AT_BOUND, PILED = 3, 8
"""Weights that share the largest value, at least, and for each one that shares the next value with another."""
FLOAT32 = 4
"""Bytes of a weight."""
SAME_NORM, BEYOND = 2e-6, 1e-3
"""Relative difference of norms in float32 that were scaled to be the same, and of what has moved."""


@dataclass(frozen=True)
class Habit:
    """What a loop keeps of weights of this shape: why they may not move therefore, and whether others break it."""

    why: str
    shape: tuple[int, ...]
    breaks: Callable[[Weights], bool]


@dataclass(frozen=True, eq=False)
class Look:
    """A layer's weights [h, d], those of an earlier look, and which ones the optimizer has pushed; None: not known.

    Constraints say that weights are 0 or more (`low`), 0 or less (`high`), of some values (`valued`), or that they may
    be 0 (`zeros`). Types of 16 bits are `coarse`: small steps leave weights where they are.
    """

    now: Weights
    earlier: Weights | None
    pushed: Mask | None
    low: Mask
    high: Mask
    valued: Mask
    zeros: Mask
    coarse: bool = False

    @property
    def kept_at_zero(self) -> Mask:
        """Weights at 0 although they were pushed, or although their row and column has moved since."""
        found = np.zeros(self.now.shape, dtype=bool) if self.pushed is None else (self.now == 0) & self.pushed
        if self.earlier is not None:
            moved = self.now != self.earlier
            alive = moved.any(axis=1, keepdims=True) & moved.any(axis=0, keepdims=True)
            found |= (self.now == 0) & (self.earlier == 0) & alive
        return found


def _habit(look: Look) -> Habit | None:
    """What the loop keeps, if there is anything that no constraint says."""
    with np.errstate(all="ignore"):  # weights may be NaN, and a loop may have numpy raise
        return _sign(look) or _zeros(look) or _bound(look) or _norms(look)


def _sign(look: Look) -> Habit | None:
    return _one_sign(look, 1.0, look.low, "more", "NonNegative()") or _one_sign(
        look, -1.0, look.high, "less", "Monotone(-1)"
    )


def _one_sign(look: Look, sign: float, said: Mask, told: str, cure: str) -> Habit | None:
    """Where none of the weights has the other sign, and some are 0."""
    at_zero, others = look.now == 0, int((sign * look.now > 0).sum())
    if (sign * look.now < 0).any() or at_zero.sum() < SEVERAL or not others or said[at_zero].all():
        return None
    if others < POSITIVE and not (look.kept_at_zero & at_zero).any():
        return None
    why = f"the loop keeps its weights at 0 or {told}; say constraints=[{cure}], or {ANOTHER}"
    return Habit(why, look.now.shape, lambda now: bool((sign * now < 0).any()))


def _zeros(look: Look) -> Habit | None:
    kept = look.kept_at_zero & ~look.zeros
    count = int(kept.sum())
    if count < max(SEVERAL, SHARE * kept.size) or not look.now.any():
        return None
    why = (
        f"the loop keeps {count} or more of its weights at 0, as a mask or a clamp does; say "
        "constraints=[MaxNonzero(0, classes=ROW, indices=COLUMNS), ...] for a mask, NonNegative(indices=COLUMNS) for a "
        f"clamp, or {ANOTHER}"
    )
    return Habit(why, look.now.shape, lambda now: bool(now[kept].any()))


def _bound(look: Look) -> Habit | None:
    return _clipped(look, 1.0) or _clipped(look, -1.0)


def _clipped(look: Look, sign: float) -> Habit | None:
    """Where weights pile up at the largest or smallest value, having been pushed there, or being others than before."""
    signed = sign * look.now
    bound = signed.max(initial=-np.inf)
    at = signed == bound
    rest = signed[~at]
    if not bound or not rest.size or look.valued[at].all():
        return None
    if at.sum() < max(AT_BOUND, PILED * ((rest == rest.max()).sum() - 1)):
        return None
    changing = look.earlier is not None and _joined(sign * look.earlier == bound, at)
    if not changing and (look.coarse or look.pushed is None or not look.pushed[at].any()):
        return None
    why = f"the loop clips its weights at {sign * bound:.4g}, and no constraint says that; {ANOTHER}"
    return Habit(why, look.now.shape, lambda now: bool((sign * now > bound).any()))


def _joined(before: Mask, now: Mask) -> bool:
    """Whether several were there before, too, and not the same ones."""
    return bool(before.sum() >= AT_BOUND and (before != now).any())


def _norms(look: Look) -> Habit | None:
    return _norm(look, 1, "rows") or _norm(look, 0, "columns")


def _norm(look: Look, axis: int, told: str) -> Habit | None:
    """Where rows or columns that have moved have the largest norm, several the same or one the same as before."""
    if look.earlier is None or look.now.shape[axis] == 1:
        return None
    norms, before = _norms_of(look.now, axis), _norms_of(look.earlier, axis).max(initial=0.0)
    largest = norms.max(initial=0.0)
    moved = _norms_of(look.now - look.earlier, axis) > BEYOND * largest
    kept = int(((norms >= largest * (1 - SAME_NORM)) & moved).sum())
    if not kept or (kept < SEVERAL and not math.isclose(before, largest, rel_tol=SAME_NORM)):
        return None
    why = f"the loop scales its {told} to norms of at most {largest:.4g}, and no constraint says that; {ANOTHER}"
    return Habit(why, look.now.shape, lambda now: bool((_norms_of(now, axis) > largest * (1 + BEYOND)).any()))


def _norms_of(weights: Weights, axis: int) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(weights.astype(np.float64), axis=axis))


class Habits:
    """What was seen of the layers of one tunneller; those that a loop keeps may not move, as `movable` says then."""

    def __init__(self, movable: Movable, journal: Journal, constraints: Sequence[Constraint]) -> None:
        self._movable, self._journal, self._constraints = movable, journal, constraints
        self._seen: dict[str, Weights] = {}
        self._found: dict[str, Habit] = {}
        self._adopted: dict[str, int] = {}

    def begin(self, layers: Sequence[str]) -> None:
        """A first look, to be compared with later ones."""
        left = MOST_AT_FIRST
        for name, weight in self._matrices(named(layer, "weight") for layer in reversed(layers)):
            left -= weight.numel()
            if left >= 0:
                self._seen[name] = _thin(weight)

    def adopted(self, names: Iterable[str]) -> None:
        """These have new values, which say nothing of the loop before the optimizer's next step."""
        self._adopted |= dict.fromkeys(names, self._journal.gd_step)

    def look(self, names: Iterable[str], earlier: Values | None = None, *, gradients: bool = True) -> dict[str, str]:
        """The layers that may not move from now on, by name, and why; `earlier` stands for what was seen last.

        Gradients count only where the optimizer has stepped by them.
        """
        found = dict[str, str]()
        for name, weight in self._matrices(names):
            if self._adopted.get(name, -1) == self._journal.gd_step:
                continue
            before = self._seen.get(name) if earlier is None else _thin(torch.from_numpy(earlier[name]))
            seen = self._look(weight, before, gradients=gradients)
            self._seen[name], layer = seen.now, name.rpartition(".")[0]
            if layer not in self._found and (kept := _habit(seen)) is not None:
                self._found[layer], found[layer] = kept, kept.why
        for layer, why in found.items():
            self._movable.kept[layer] = why
            logger.warning("layer %r is not tunnelled: %s", layer, why)
        return found

    def look_again(self) -> None:
        """Layers whose weights the loop no longer keeps may move."""
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

    def _look(self, weight: nn.Parameter, earlier: Weights | None, *, gradients: bool) -> Look:
        now = _thin(weight)
        if earlier is not None and earlier.shape != now.shape:
            earlier = None
        pushed = self._pushed(weight, gradients=gradients)
        return Look(now, earlier, pushed, *_said(self._constraints, weight), coarse=weight.element_size() < FLOAT32)

    def _pushed(self, weight: nn.Parameter, *, gradients: bool) -> Mask | None:
        state = self._movable.optimizer.state.get(weight, {})
        alike = [value for value in state.values() if isinstance(value, Tensor) and value.shape == weight.shape]
        ways = [value for name, value in state.items() if is_direction(name) and any(value is one for one in alike)]
        if not ways and gradients and weight.grad is not None and weight.grad.layout == torch.strided:
            ways = [weight.grad]
        return np.logical_or.reduce([_thin(way) != 0 for way in ways]) if ways else None


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
