"""What a method does when GD stalls: nothing, restart the optimizer, or tunnel."""

from typing import Protocol

from torch import nn
from torch.optim import Optimizer

from trainer.blocks import find_layer
from trainer.client import SolverClient
from trainer.events import Event, Summary
from trainer.methods import Method
from trainer.policy import AUTO
from trainer.stall import StallDetector
from trainer.tasks import Task
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


class Nothing:
    """Plain GD: a stall is nobody's business."""

    history: tuple[Event, ...] = ()

    def step(self, score: float) -> bool:
        """Do nothing."""
        return False

    def close(self, polish: bool = False, timeout: float = 60.0) -> None:
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
) -> AtStall:
    """Set up what the method does at a stall; ValueError if it tunnels and there is no client."""
    defaults, tunnel = task.defaults, task.tunnel
    if method.at_stall == "nothing":
        return Nothing()
    if method.at_stall == "restart":
        detector = StallDetector(defaults.patience, defaults.min_delta, COOLDOWN, task.mode, defaults.delta_mode)
        layer = find_layer(model, None if tunnel.layer == AUTO else tunnel.layer)
        return Restart(optimizer, model.get_submodule(layer), detector)
    if client is None:
        raise ValueError(f"{method.name} needs a solver pool; give a client")
    return Tunneller(
        model,
        optimizer=optimizer,
        data=(task.train.inputs, task.train.targets),
        validate=lambda: task.score(model, task.validation),
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
    )
