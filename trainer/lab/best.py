"""What a run keeps count of: its seconds, its best weights so far, and for how long nothing was gained."""

import copy
import math
import time
from typing import Any

from torch import nn

from trainer.lab.tasks import Task
from trainer.scores import improvement

LEAST_GAIN = 1e-3
"""Of a selection metric, as a share of itself: less is no gain."""
LEAST_OF_FIRST = 1e-6
"""The same as a share of its first value, for errors that go towards 0."""


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu_began = time.monotonic(), time.process_time()

    def cpu_seconds(self) -> float:
        """Seconds of CPU that all threads of this process have had until now."""
        return time.process_time() - self._cpu_began

    def seconds(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._began

    def go_on(self, seconds: float) -> None:
        """Go on as if so many seconds had passed."""
        self._began = time.monotonic() - seconds


class Best:
    """Remembers the weights with the best selection metric."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._model, self._task = model, task
        self._score, self._state = float("nan"), copy.deepcopy(model.state_dict())
        self._first, self._mark = float("nan"), float("nan")
        self.waited = 0
        """Epochs since the last real gain."""

    def update(self) -> float:
        """Score the model as it is, and remember it if it is the best so far."""
        score = self._task.score(self._model, self._task.selection)
        if improvement(self._score, score, self._task.mode) > 0:
            self._score, self._state = score, copy.deepcopy(self._model.state_dict())
        return score

    def count(self) -> None:
        """Count an epoch as waited, unless it has brought a real gain."""
        if math.isnan(self._first):
            self._first = self._mark = self._score
            return
        gained = improvement(self._mark, self._score, self._task.mode)
        if gained > max(LEAST_GAIN * abs(self._mark), LEAST_OF_FIRST * abs(self._first)):
            self._mark, self.waited = self._score, 0
        else:
            self.waited += 1

    def restore(self) -> None:
        """Put the best weights back."""
        self._model.load_state_dict(self._state)

    def is_as_good_as(self, target: float | None) -> bool:
        """Whether the best score reaches `target`; never if there is none."""
        return target is not None and improvement(target, self._score, self._task.mode) >= 0

    def state_dict(self) -> dict[str, Any]:
        """The best weights, their score, and how long ago the last real gain was."""
        return {
            "score": self._score,
            "state": self._state,
            "first": self._first,
            "mark": self._mark,
            "waited": self.waited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._score, self._state = state["score"], state["state"]
        self._first, self._mark, self.waited = state["first"], state["mark"], state["waited"]
