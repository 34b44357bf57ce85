"""Notices when gradient descent has stopped getting anywhere, which is the moment to call the solver."""

import math
from collections.abc import Mapping
from typing import Literal

from trainer.scores import Mode, as_float, improvement

DeltaMode = Literal["abs", "rel"]
"""Whether a least gain counts in the metric's units, or as a share of its value."""
DECLINES = 3
"""So many scores, each worse than all before it, and none better than the first: the mode may be the wrong one."""


def least_gain(min_delta: float, delta_mode: DeltaMode, score: float) -> float:
    """The least gain that counts at a score, in the metric's units."""
    return min_delta * abs(score) if delta_mode == "rel" and math.isfinite(score) else min_delta


class StallDetector:
    """Says when a metric has not improved by `min_delta` for `patience` checks.

    After a stall the next one is at least `cooldown` checks (and a fresh patience) away. `mode` says whether lower
    or higher is better, `delta_mode` whether `min_delta` is in the metric's units ("abs") or a share of the best score
    ("rel"). ValueError names a setting that makes no sense.
    """

    def __init__(
        self,
        patience: int = 5,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        mode: Mode = "min",
        delta_mode: DeltaMode = "abs",
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}; use 1 or more checks")
        if cooldown < 0:
            raise ValueError(f"cooldown is {cooldown}; use 0 or more checks")
        if not min_delta >= 0:
            raise ValueError(f"min_delta is {min_delta}; use 0 or more, in the metric's units")
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; use 'min' if lower scores are better, 'max' if higher ones are")
        if delta_mode not in ("abs", "rel"):
            raise ValueError(f"delta_mode is {delta_mode!r}; use 'abs' for the metric's units, 'rel' for a share of it")
        self.patience, self.min_delta, self.cooldown = patience, min_delta, cooldown
        self.mode, self.delta_mode = mode, delta_mode
        self.best = math.nan
        self.stalled = False
        """Whether the score has not improved since the last stall."""
        self._waited = 0
        self._cooling = 0
        self._first = self._worst = math.nan
        self._declines = 0

    @property
    def backwards(self) -> bool:
        """Whether the first score is still the best and others went ever farther the other way: is the mode right?"""
        return self.best == self._first and self._declines >= DECLINES

    def update(self, score: float) -> bool:
        """Take one more score; return True when it completes a stall."""
        score = as_float(score)
        self._note(score)
        gained = improvement(self.best, score, self.mode)
        if gained > 0 and gained >= least_gain(self.min_delta, self.delta_mode, self.best):
            self.best, self._waited, self.stalled = score, 0, False
            self._cooling = max(0, self._cooling - 1)
            return False
        if self._cooling > 0:
            self._cooling -= 1
            return False
        self._waited += 1
        if self._waited < self.patience:
            return False
        self._waited, self._cooling, self.stalled = 0, self.cooldown, True
        return True

    def _note(self, score: float) -> None:
        if math.isnan(self._first):
            self._first = self._worst = score
        elif improvement(score, self._worst, self.mode) > 0:
            self._worst, self._declines = score, self._declines + 1

    def rest(self) -> None:
        """Start waiting afresh, for example after the weights were changed from outside; the best score stays."""
        self._waited, self._cooling, self.stalled = 0, self.cooldown, False

    def state_dict(self) -> dict[str, float | str | None]:
        """What it has seen so far, as strict JSON has it: that knows no infinity."""
        best = None if math.isnan(self.best) else self.best if math.isfinite(self.best) else str(self.best)
        return {"best": best, "waited": self._waited, "cooling": self._cooling}

    def load_state_dict(self, state: Mapping[str, float | str | None]) -> None:
        """Go on from there."""
        best, waited, cooling = (state[name] for name in ("best", "waited", "cooling"))
        self.best = math.nan if best is None else float(best)
        self._waited, self._cooling = int(waited or 0), int(cooling or 0)
