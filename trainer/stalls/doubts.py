"""Doubts whether jobs see what the loop trains on: a loop may change inputs or targets after they were kept."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shared.snapshot import FloatArray, Snapshot
from trainer.model.given import Given
from trainer.speaking import logger

CHANGED = (
    "the loop changes the inputs after watch(), and jobs see them as the loader gives them: call "
    "tunneller.observe(inputs, targets) with what the model takes, in place of watch(), or give the Tunneller a "
    "`split` that changes them, too"
)
WORSE = (
    "the model does worse on the kept samples than a constant would: does the loop change targets or inputs after "
    "watch(), or does the loss take outputs for something else than the targets, such as their logarithms? Then call "
    "tunneller.observe(inputs, targets) with what fits, in place of watch(), or give the Tunneller a `split` that does"
)
FEWEST, MOST = 32, 500
"""Samples that say something, and so many as are looked at."""
ERRORS = 3.0
"""Standard errors below chance."""
WORSE_BY = 1.1
"""So many times a constant's error, squared and absolute."""
RUNNING = 2
"""Stalls in a row: the first one may come before the model has learned anything."""


class Doubts:
    """Warns once, with the cure. `given` looks at what the model takes, if it `compares` that with batches."""

    def __init__(self, model: nn.Module, compares: bool) -> None:
        self.given = Given(model, lambda: self._say(CHANGED), compares)
        self._told, self._worse = "", 0

    @property
    def hint(self) -> str:
        """What was said, or would be if another stall were like the last one; empty where there is no doubt."""
        return self._told or (WORSE if self._worse else "")

    def look(self, seen: Snapshot, scores: FloatArray) -> None:
        """At a stall: what the model made of the kept samples, scores [n, K]."""
        self._worse = self._worse + 1 if worse_than_constant(seen, scores) else 0
        if self._worse >= RUNNING:
            self._say(WORSE)

    def _say(self, why: str) -> None:
        if not self._told:
            logger.warning("%s", why)
        self._told = self._told or why


def worse_than_constant(seen: Snapshot, scores: FloatArray) -> bool:
    """Whether scores [n, K] are clearly worse on samples than what is the same for all of them.

    Of classes: the mean recall, against chance; of numbers: squared and absolute error, against mean and median.
    """
    scores, targets = scores[:MOST], seen.targets[:MOST]
    if len(scores) < FEWEST or not np.isfinite(scores).all():
        return False
    match seen.task:
        case "regression":
            return _off(targets.reshape(scores.shape).astype(np.float64), scores.astype(np.float64))
        case "classification":
            return _below_chance(targets.reshape(-1).astype(np.int64), scores.argmax(axis=1))
        case _:
            return _below_chance(targets.reshape(-1).astype(np.int64), (scores.reshape(-1) > 0).astype(np.int64))


def _off(targets: NDArray[np.float64], made: NDArray[np.float64]) -> bool:
    spread = targets.var(axis=0)
    moves = spread > 0
    if not moves.any():
        return False
    error, middle = (made - targets)[:, moves], np.median(targets, axis=0)
    squared = (error**2).mean(axis=0) / spread[moves]
    absolute = np.abs(error).mean(axis=0) / np.abs(targets - middle).mean(axis=0)[moves]
    return bool(squared.mean() > WORSE_BY and absolute.mean() > WORSE_BY)


def _below_chance(classes: NDArray[np.int64], called: NDArray[np.int64]) -> bool:
    known, count = np.unique(classes, return_counts=True)
    recalls = np.array([(called[classes == one] == one).mean() for one in known])
    chance = 1.0 / max(len(known), 2)  # also of one class, which a model has only to name
    error = np.sqrt((chance * (1.0 - chance) / count).sum()) / len(known)
    return bool(recalls.mean() < chance - ERRORS * error)
