"""Remembers how the score of a run went, so that its end can be told beside what tunnels gained on the way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from trainer.scores import Mode, improvement

NOISE = 1e-6
"""Share of a score by which it may differ from itself."""


@dataclass(frozen=True)
class Course:
    """The first, the best and the last score; `best_step` and `step` are the checks after which the latter two were."""

    first: float
    best: float
    best_step: int
    last: float
    step: int

    @classmethod
    def begun(cls, score: float, step: int) -> Self:
        """The course of a run with one score."""
        return cls(score, score, step, score, step)

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """The course of what `state_dict` gave."""
        first, best, last = (float(state[name]) for name in ("first", "best", "last"))
        return cls(first, best, int(state["best_step"]), last, int(state["step"]))

    def state_dict(self) -> dict[str, Any]:
        """A course as strict JSON has it: infinity and NaN as text."""
        return {name: value if math.isfinite(value) else str(value) for name, value in vars(self).items()}

    def then(self, score: float, step: int, mode: Mode) -> Self:
        """The same after a score of this check; one of an earlier check than the last may still be the best."""
        found = replace(self, last=score, step=step) if step >= self.step else self
        return replace(found, best=score, best_step=step) if improvement(self.best, score, mode) > 0 else found

    def fell(self, mode: Mode) -> bool:
        """Whether the last score is worse than the best."""
        lost = improvement(self.last, self.best, mode)
        return lost > NOISE * abs(self.best) if math.isfinite(self.best) else lost > 0

    def __str__(self) -> str:
        best = f"best {self.best:.6g} (check {self.best_step} of {self.step})"
        return f"score: first {self.first:.6g}, {best}, last {self.last:.6g}"
