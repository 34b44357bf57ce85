"""What every method has for stalls, and the simplest two: do nothing, or drop the optimizer's state."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from trainer.events import Event, Summary
from trainer.stalls.detector import StallDetector


class AtStall(Protocol):
    """The part of a tunneller that the loop uses."""

    @property
    def history(self) -> tuple[Event, ...]:
        """What happened so far."""

    def step(self, score: float) -> bool:
        """Take the newest score; True if the weights were changed."""

    def close(self, polish: bool = False, timeout: float = 60.0) -> Summary | None:
        """End, and sum up."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class Nothing:
    """Plain GD: a stall is nobody's business."""

    history: tuple[Event, ...] = ()

    def step(self, score: float) -> bool:
        """Do nothing."""
        return False

    def close(self, polish: bool = False, timeout: float = 60.0) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to know."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


class Restart(Nothing):
    """At a stall, drop the optimizer's state for the layer that the hybrid would tunnel."""

    def __init__(self, optimizer: Optimizer, layer: nn.Module, detector: StallDetector) -> None:
        self._optimizer, self._layer, self._detector = optimizer, layer, detector

    def step(self, score: float) -> bool:
        """Notice a stall and restart; the weights stay as they are."""
        if self._detector.update(score):
            for parameter in self._layer.parameters():
                self._optimizer.state.pop(parameter, None)
        return False

    def state_dict(self) -> dict[str, Any]:
        """How long it has waited."""
        return dict(self._detector.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on waiting."""
        self._detector.load_state_dict(state)
