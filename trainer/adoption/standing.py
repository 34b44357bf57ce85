"""Sees whether what was adopted still stands when training goes on: a loop may have put its own weights back.

Averaged weights are often swapped in for a validation, and out again. An answer that is adopted meanwhile goes with
them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trainer.adoption import parameters
from trainer.journal import Journal
from trainer.model.blocks import Values
from trainer.speaking import logger
from trainer.story import UNDONE

NEAR = 0.5
"""What is left of a change where less of it counts as set back: weights that the loop clips or scales are not."""


@dataclass(frozen=True, eq=False)
class Change:
    """Parameters by name before and after an adoption, as the model holds them."""

    before: Values
    after: Values

    def stands(self, now: Values) -> bool:
        """Whether not all of it was set back."""
        moved, left = (_distance(self.before, values) for values in (self.after, now))
        return not left < NEAR * moved  # NaN is nothing that was there before

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


class Standing:
    """Looks at each adoption once: at the optimizer's next step, before it moves anything, or at the next check."""

    def __init__(self, model: nn.Module, journal: Journal) -> None:
        self._model, self._journal = model, journal
        self._adopted: list[_Adopted] = []
        self._warned = False
        journal.before_step = self.check

    def note(self, stall: int, job: str, change: Change) -> None:
        """Remember an adoption until it was looked at."""
        self._adopted = [_Adopted(one.stall, one.job, one.change.then(change)) for one in self._adopted]
        self._adopted.append(_Adopted(stall, job, change))

    def check(self) -> None:
        """Note those as undone that the loop has set back since, and say once what to do about it."""
        adopted, self._adopted = self._adopted, []
        for one in adopted:
            if one.change.stands(parameters.read(self._model, one.change.after)):
                continue
            self._journal.add("undone", one.stall, job=one.job, detail=UNDONE)
            if not self._warned:
                self._warned = True
                logger.warning(
                    "the loop has set the weights back that were adopted at stall %d: if averaged (EMA) weights are "
                    "swapped in for validation, call step() outside of the swap, while the model holds the weights "
                    "that are trained, and let `validate` score these",
                    one.stall,
                )
