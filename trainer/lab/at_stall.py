"""What a method does when GD stalls: nothing, restart the optimizer, begin anew, renew dead units, or tunnel."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from trainer.events import Event, Summary
from trainer.journal import OnEvent
from trainer.lab.finishing import FINISHES, Finish
from trainer.lab.methods import Method
from trainer.lab.redo import Redo
from trainer.lab.states import State, copy_state, write_state
from trainer.lab.tasks import Task
from trainer.pool.client import SolverClient
from trainer.snapshots.blocks import find_layer
from trainer.stalls.detector import StallDetector, improvement
from trainer.stalls.policy import AUTO
from trainer.tunneller import Tunneller

COOLDOWN = 2


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
        return self._tunneller.step(score)

    def close(self, polish: bool = False, timeout: float = 60.0) -> Summary:
        """End, after a last tunnel if asked for."""
        self._last = self._last or polish
        return self._tunneller.close(polish=polish, timeout=timeout)

    def state_dict(self) -> dict[str, Any]:
        """The tunneller's own."""
        return self._tunneller.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; a job that is posted again is found by its idempotency key."""
        self._tunneller.load_state_dict(state)

    def _validate(self) -> float:
        task, model = self._task, self._model
        return task.score_on_both(model) if self._last else task.score(model, task.validation)


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

    def step(self, score: float) -> bool:
        """Remember the best weights of this start by their score; at a stall begin anew."""
        if improvement(self._best, score, self._task.mode) > 0:
            self._best, self._state = score, copy_state(self._model)
        if not self._detector.update(score):
            return False
        self._keep()
        write_state(self._model, self._task.model().state_dict())
        self._optimizer.state.clear()
        self._detector = self._new_detector()
        self._best = math.nan
        return False

    def close(self, polish: bool = False, timeout: float = 60.0) -> None:
        """Put the start that both prefer into the model."""
        if polish:
            self._keep()
        if polish and self._kept:  # none, if every start diverged at once
            sign = 1.0 if self._task.mode == "max" else -1.0
            write_state(self._model, max(self._kept, key=lambda pair: sign * pair[0])[1])

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


def arrange(
    method: Method,
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    seed: int,
    client: SolverClient | None,
    sync: bool = False,
    fanout: int = 1,
    run: str | None = None,
    on_event: OnEvent | None = None,
) -> AtStall:
    """Set up what the method does at a stall; ValueError if it tunnels and there is no client."""
    defaults, tunnel = task.defaults, task.tunnel
    if method.at_stall == "nothing":
        return Nothing()
    detector = partial(StallDetector, defaults.patience, defaults.min_delta, COOLDOWN, task.mode, defaults.delta_mode)
    if method.at_stall in FINISHES:
        return Finish(task, model, FINISHES[method.at_stall])
    if method.at_stall == "redo":
        return Redo(task, model, optimizer, detector())
    if method.at_stall == "renew":
        return Renew(task, model, optimizer, detector)
    if method.at_stall == "restart":
        layer = find_layer(model, None if tunnel.layer == AUTO else tunnel.layer)
        return Restart(optimizer, model.get_submodule(layer), detector())
    if client is None:
        raise ValueError(f"{method.name} needs a solver pool; give a client")
    make = partial(
        Tunneller,
        model,
        optimizer=optimizer,
        data=task.train.tensors,
        task=task.kind,
        monitor=task.metric,
        client=client,
        mode=task.mode,
        patience=defaults.patience,
        min_delta=defaults.min_delta,
        delta_mode=defaults.delta_mode,
        cooldown=COOLDOWN,
        layer=tunnel.layer,
        objective=tunnel.objective,
        radius=tunnel.radius,
        tail_radius=tunnel.tail_radius,
        first_after=tunnel.first_after,
        time_s=tunnel.time_s,
        samples=tunnel.samples,
        sync=sync,
        fanout=fanout,
        run=run,
        seed=seed,
        on_event=on_event,
    )
    return Tunnels(lambda validate: make(validate=validate), task, model)
