"""Notices when gradient descent has stopped getting anywhere, which is the moment to call the solver."""

import math
from typing import Literal

Mode = Literal["min", "max"]


def improvement(before: float, after: float, mode: Mode) -> float:
    """How much better `after` is than `before`, in the metric's units: positive is better, NaN counts as worst."""
    if math.isnan(after):
        return -math.inf
    if math.isnan(before):
        return math.inf
    return 0.0 if after == before else (before - after if mode == "min" else after - before)


class StallDetector:
    """Says when a metric has not improved by `min_delta` for `patience` checks.

    After a stall the next one is at least `cooldown` checks (and a fresh patience) away. `mode` says whether lower
    or higher is better. ValueError names a setting that makes no sense.
    """

    def __init__(self, patience: int = 5, min_delta: float = 1e-4, cooldown: int = 0, mode: Mode = "min") -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}; use 1 or more checks")
        if cooldown < 0:
            raise ValueError(f"cooldown is {cooldown}; use 0 or more checks")
        if not min_delta >= 0:
            raise ValueError(f"min_delta is {min_delta}; use 0 or more, in the metric's units")
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; use 'min' if lower scores are better, 'max' if higher ones are")
        self.patience, self.min_delta, self.cooldown, self.mode = patience, min_delta, cooldown, mode
        self.best = math.nan
        self._waited = 0
        self._cooling = 0

    def update(self, score: float) -> bool:
        """Take one more score; return True when it completes a stall."""
        gained = improvement(self.best, score, self.mode)
        if gained > 0 and gained >= self.min_delta:
            self.best, self._waited = score, 0
            self._cooling = max(0, self._cooling - 1)
            return False
        if self._cooling > 0:
            self._cooling -= 1
            return False
        self._waited += 1
        if self._waited < self.patience:
            return False
        self._waited, self._cooling = 0, self.cooldown
        return True

    def rest(self) -> None:
        """Start waiting afresh, for example after the weights were changed from outside; the best score stays."""
        self._waited, self._cooling = 0, self.cooldown
