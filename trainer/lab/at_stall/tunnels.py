"""Tunnels during training: the hybrid's way with a stall, its answers judged on data that GD does not see."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from trainer.events import Event, Summary
from trainer.lab.tasks import Task
from trainer.tunneller import Tunneller

IN_VAIN = 3
"""After so many stalls without any adoption nobody is asked before the end: what does not pay is to cost nothing."""


class Tunnels:
    """A tunneller whose answers are judged on validation data, those of its last tunnel on selection data, too."""

    def __init__(self, make: Callable[[Callable[[], float]], Tunneller], task: Task, model: nn.Module) -> None:
        self._task, self._model, self._last = task, model, False
        self._tunneller = make(self._validate)

    @property
    def history(self) -> tuple[Event, ...]:
        """What happened so far."""
        return self._tunneller.history

    def step(self, score: float) -> bool:
        """Take the newest score; True if an answer was adopted."""
        return False if self._in_vain else self._tunneller.step(score)

    def close(self, polish: bool = False, timeout: float = 60.0) -> Summary:
        """End, after a last tunnel if asked for."""
        self._last = self._last or polish
        return self._tunneller.close(polish=polish, timeout=timeout)

    @property
    def _in_vain(self) -> bool:
        kinds = [event.kind for event in self.history]
        return "adopted" not in kinds and len({e.stall for e in self.history if e.kind == "rejected"}) >= IN_VAIN

    def state_dict(self) -> dict[str, Any]:
        """The tunneller's own."""
        return self._tunneller.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; a job that is posted again is found by its idempotency key."""
        self._tunneller.load_state_dict(state)

    def _validate(self) -> float:
        task, model = self._task, self._model
        return task.score_on_both(model) if self._last else task.score(model, task.validation)
