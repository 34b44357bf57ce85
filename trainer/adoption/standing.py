"""Sees whether what was adopted still stands when training goes on: a loop may have put its own weights back.

Averaged weights are often swapped in for a validation, and out again. An answer that is adopted meanwhile goes with
them. Some optimizers step copies that they keep, and write these over the model's weights.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trainer.adoption import parameters
from trainer.adoption.habits import rescaled
from trainer.adoption.left_alone import Habits
from trainer.journal import Journal
from trainer.model.blocks import Values
from trainer.speaking import logger
from trainer.story import OVERWRITTEN, PROJECTED, UNDONE

NEAR = 0.5
"""What is left of a change where less of it counts as set back: weights that the loop clips or scales are not."""
BACK = 0.25
"""The same once the optimizer has stepped: a step by itself hardly ever takes three quarters of a change back."""
ENOUGH = 2
"""So many adoptions have to be lost after a step before nothing is tunnelled any more: one may be a checkpoint's."""
SWAPPED = (
    "the loop has set the weights back that were adopted at stall %d: if averaged (EMA) weights are swapped in for "
    "validation, call step() outside of the swap, while the model holds the weights that are trained, and let "
    "`validate` score these"
)
BY_OPTIMIZER = (
    "the optimizer's step has overwritten the weights that were adopted at stall %d with copies of its own (float32 "
    "master weights, slow or averaged ones): nothing is tunnelled with it any more; train with an optimizer that steps "
    "the model's own weights, and hand it over by tunneller.use_optimizer(optimizer)"
)
AFTER_STEPS = (
    "the loop writes weights that it keeps elsewhere over the model's after the optimizer's steps, as over those that "
    "were adopted at stall %d: nothing is tunnelled any more; leave the model the weights that are trained, and keep "
    "averaged (EMA) ones in a copy"
)


@dataclass(frozen=True, eq=False)
class Change:
    """Parameters by name before and after an adoption, as the model holds them."""

    before: Values
    after: Values

    def stands(self, now: Values, near: float = NEAR) -> bool:
        """Whether not all of it was set back, but for this share of it."""
        moved, left = (_distance(self.before, values) for values in (self.after, now))
        return not left < near * moved  # NaN is nothing that was there before

    def then(self, later: "Change") -> "Change":
        """The same after a later change of what may be the same parameters."""
        return Change(self.before, {name: later.after.get(name, values) for name, values in self.after.items()})


def _distance(before: Values, after: Values) -> float:
    """How far parameters have moved that are still there, in the shape that they had."""
    alike = [name for name, values in before.items() if name in after and after[name].shape == values.shape]
    parts = [_flat(after[name]) - _flat(before[name]) for name in alike]
    return float(np.linalg.norm(np.concatenate(parts))) if parts else np.inf


def _flat(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return values.astype(np.float64).reshape(-1)


@dataclass(frozen=True, eq=False)
class _Adopted:
    stall: int
    job: str
    change: Change
    gd_step: int


class Standing:
    """Looks whether adoptions stand: at the next check, and until then before and after the optimizer's first step.

    The last look is before its second step, so that what a loop writes after each step is seen, too.
    """

    def __init__(self, model: nn.Module, journal: Journal, habits: Habits) -> None:
        self._model, self._journal, self._habits = model, journal, habits
        self._adopted: list[_Adopted] = []
        self._said: set[str] = set()
        self._times = 0
        self.overwritten = False
        """Whether whatever is adopted is lost, because weights are kept elsewhere and written over the model's."""
        journal.before_step, journal.after_step = self._before_step, self._after_step

    def note(self, stall: int, job: str, change: Change) -> None:
        """Remember an adoption until it was looked at."""
        self._adopted = [replace(one, change=one.change.then(change)) for one in self._adopted]
        self._adopted.append(_Adopted(stall, job, change, self._journal.gd_step))
        self._habits.adopted(change.after)

    def begin_anew(self) -> None:
        """Another optimizer trains the model from now on."""
        self.check()
        self.overwritten, self._times = False, 0

    def check(self) -> None:
        """Note those as undone that the loop has set back since, and say once what to do about it."""
        self._look()
        self._adopted = []

    def _before_step(self) -> None:
        if self._adopted:  # as few words as possible: this is every step
            self._look()
            self._adopted = [one for one in self._adopted if one.gd_step == self._journal.gd_step]

    def _after_step(self) -> None:
        if self._adopted:
            self._look(in_step=True)

    def _look(self, *, in_step: bool = False) -> None:
        """Let go of those that are undone; `in_step`: what has happened since the last look is the optimizer's."""
        adopted, self._adopted = self._adopted, []
        for one in adopted:
            stepped = self._journal.gd_step > one.gd_step
            now = parameters.read(self._model, one.change.after)
            if one.change.stands(now, BACK if stepped else NEAR):
                if stepped and not in_step and self._habits.look(now, (one.change.before, one.change.after)):
                    self._journal.add("undone", one.stall, job=one.job, detail=PROJECTED)
                else:
                    self._adopted.append(one)
                continue
            if not in_step and self._habits.look(now, (one.change.before, one.change.after), rescaled):
                self._journal.add("undone", one.stall, job=one.job, detail=PROJECTED)
                continue
            self._times += stepped
            detail, told = (OVERWRITTEN, BY_OPTIMIZER) if in_step else (UNDONE, AFTER_STEPS if stepped else SWAPPED)
            self._journal.add("undone", one.stall, job=one.job, detail=detail)
            self.overwritten |= in_step or self._times >= ENOUGH
            self._say(told, one.stall)

    def _say(self, told: str, stall: int) -> None:
        if told not in self._said and (told != AFTER_STEPS or self.overwritten):
            self._said.add(told)
            logger.warning(told, stall)
