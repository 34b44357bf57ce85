"""Starts from new weights, one after another: what a practitioner does where GD ends in a different place each time."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainer.events import Event
from trainer.lab.states import State, copy_state, write_state
from trainer.lab.tasks import Task
from trainer.scores import improvement
from trainer.stalls.detector import StallDetector


class Renew:
    """At a stall, begin anew from new weights; in the end selection and validation choose among all starts."""

    history: tuple[Event, ...] = ()

    def __init__(
        self, task: Task, model: nn.Module, optimizer: Optimizer, detector: Callable[[], StallDetector]
    ) -> None:
        self._task, self._model, self._optimizer = task, model, optimizer
        self._new_detector, self._detector = detector, detector()
        self._best, self._state = math.nan, copy_state(model)
        self._kept: list[tuple[float, State]] = []
        self._sign = 1.0 if task.mode == "max" else -1.0

    def step(self, score: float) -> bool:
        """Remember the best weights of this start by their score; at a stall begin anew."""
        if improvement(self._best, score, self._task.mode) > 0:
            self._best, self._state = score, copy_state(self._model)
        if not self._detector.update(score):
            return False
        self._keep()
        self._begin_anew()
        return False

    def _begin_anew(self) -> None:
        write_state(self._model, self._task.model().state_dict())
        self._optimizer.state.clear()
        self._detector = self._new_detector()
        self._best = math.nan

    def close(self, polish: bool = False, timeout: float = 60.0) -> None:
        """Put the start that both prefer into the model."""
        if polish:
            self._keep()
        if polish and self._kept:  # none, if every start diverged at once
            write_state(self._model, max(self._kept, key=lambda pair: self._sign * pair[0])[1])

    def state_dict(self) -> dict[str, Any]:
        """The best weights of this start, and of all before it."""
        return {
            "detector": self._detector.state_dict(),
            "best": self._best,
            "state": dict(self._state),
            "kept": [(score, dict(state)) for score, state in self._kept],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the start that was under way."""
        self._detector.load_state_dict(state["detector"])
        self._best, self._state, self._kept = state["best"], state["state"], list(state["kept"])

    def _keep(self) -> None:
        if math.isnan(self._best):
            return
        now = copy_state(self._model)
        write_state(self._model, self._state)
        self._kept.append((self._task.score_on_both(self._model), self._state))
        write_state(self._model, now)
