"""Recognises what a loop keeps of weights by itself (masks, signs, bounds, norms), which an answer would break.

A mask that is multiplied in after each step, or a clamp, stands nowhere in the model. But weights that are exactly 0
although the optimizer pushes them, or that share their largest value to the last bit, are nobody's chance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np
from numpy.typing import NDArray

from trainer.model.eligibility import ANOTHER

Weights = NDArray[np.float32]
Mask = NDArray[np.bool_]
SEVERAL, SHARE = 2, 1e-3
"""Weights at 0, at least, and of all weights, before they count as kept there."""
POSITIVE = 8
"""Weights of one sign that are no chance."""
AT_BOUND, PILED = 3, 8
"""Weights that share the largest value, at least, and for each one that shares the next value with another."""
SAME_NORM, BEYOND = 2e-6, 1e-3
"""Relative difference of norms in float32 that were scaled to be the same, and of what has moved."""
BY_CHANCE = 1e-4
"""Of looks at weights that nobody scales, the share at which they may seem to be."""
ONE_STEP = 0.5
"""By how much of it one step of the optimizer's may exceed a norm that is kept."""


@dataclass(frozen=True)
class Habit:
    """What a loop keeps of weights of this shape: why they may not move therefore, and whether others break it."""

    why: str
    shape: tuple[int, ...]
    breaks: Callable[[Weights], bool]


@dataclass(frozen=True, eq=False)
class Look:
    """A layer's weights [h, d], those of an earlier look, and which ones the optimizer has pushed; None: not known.

    `began` are those from which the loop has gone on, where these are others than the earlier ones: an adoption's.
    `eldest` are those of the look before the earlier one.
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
    began: Weights | None = None
    eldest: Weights | None = None

    @property
    def kept_at_zero(self) -> Mask:
        """Weights at 0 although they were pushed, or although their row and column has moved since."""
        found = np.zeros(self.now.shape, dtype=bool) if self.pushed is None else (self.now == 0) & self.pushed
        if self.earlier is not None:
            # What an adoption moved says nothing of the loop: it may move a part of what no gradient reaches.
            moved = self.now != (self.earlier if self.began is None else self.began)
            alive = moved.any(axis=1, keepdims=True) & moved.any(axis=0, keepdims=True)
            found |= (self.now == 0) & (self.earlier == 0) & alive
        return found


def habit_of(look: Look) -> Habit | None:
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


def rescaled(look: Look) -> Habit | None:
    """Rows or columns that the loop scales to one norm before a pass: at a check they are beyond it by one step."""
    with np.errstate(all="ignore"):
        return _norms(look, ONE_STEP)


def _norms(look: Look, beyond: float = BEYOND) -> Habit | None:
    return _norm(look, 1, "rows", beyond) or _norm(look, 0, "columns", beyond)


def _norm(look: Look, axis: int, told: str, beyond: float) -> Habit | None:
    """Where rows or columns that have moved have the largest norm: several the same, or one that had it before."""
    if look.earlier is None or look.now.shape[axis] == 1:
        return None
    norms = _norms_of(look.now, axis)
    largest = norms.max(initial=0.0)
    moved = _norms_of(look.now - look.earlier, axis) > BEYOND * largest
    kept = int(((norms >= largest * (1 - SAME_NORM)) & moved).sum())
    if not kept or (kept < SEVERAL and _chance(look, axis) > BY_CHANCE):
        return None
    why = f"the loop scales its {told} to norms of at most {largest:.4g}, and no constraint says that; {ANOTHER}"
    return Habit(why, look.now.shape, lambda now: bool((_norms_of(now, axis) > largest * (1 + beyond)).any()))


def _chance(look: Look, axis: int) -> float:
    """How often the largest norm would be what it was in the looks before if nobody kept it there.

    A step of Adam's after an adoption hardly changes a norm: one in a hundred is the same. Twice running none is.
    """
    looks = [one for one in (look.now, look.earlier, look.eldest) if one is not None]
    chances = (_chance_of(now, before, axis) for now, before in pairwise(looks))
    return math.prod(takewhile(lambda chance: chance < 1.0, chances))


def _chance_of(now: Weights, before: Weights, axis: int) -> float:
    """The same for two looks: a row [d] that moves by a share of itself changes its norm by about 1 / sqrt(d) of that.

    1 where the largest norm is another one by now, or hardly anything has moved.
    """
    norms = _norms_of(now, axis)
    largest = norms.max(initial=0.0)
    moved = _norms_of(now - before, axis)[norms >= largest * (1 - SAME_NORM)].max(initial=0.0)
    same = math.isclose(_norms_of(before, axis).max(initial=0.0), largest, rel_tol=SAME_NORM)
    if not same or not moved > BEYOND * largest:
        return 1.0
    return min(1.0, SAME_NORM * math.sqrt(now.shape[axis]) * float(largest / moved))


def _norms_of(weights: Weights, axis: int) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(weights.astype(np.float64), axis=axis))
