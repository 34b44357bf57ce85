"""Sets up what a method does at a stall."""

from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainer.journal import OnEvent
from trainer.lab.at_stall.consensus import Consensus
from trainer.lab.at_stall.plain import AtStall, Nothing, Restart
from trainer.lab.at_stall.renew import Renew
from trainer.lab.at_stall.tunnels import Tunnels
from trainer.lab.finishing import FINISHES, Finish
from trainer.lab.goal import Goal
from trainer.lab.methods import Method
from trainer.lab.redo import Redo
from trainer.lab.tasks import Task
from trainer.model.blocks import find_layer
from trainer.pool.client import SolverClient
from trainer.stalls.detector import StallDetector
from trainer.stalls.policy import AUTO
from trainer.tunneller import Tunneller

COOLDOWN = 2


def arrange(  # noqa: PLR0911
    method: Method,
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    seed: int,
    client: SolverClient | None,
    goal: Goal,
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
    if method.at_stall == "prices":
        return Consensus(task, model, optimizer, detector, goal=goal, ask=None, seed=seed)
    if client is None:
        raise ValueError(f"{method.name} needs a solver pool; give a client")
    shared: dict[str, Any] = {
        "optimizer": optimizer,
        "monitor": task.metric,
        "client": client,
        "mode": task.mode,
        "time_s": tunnel.time_s,
        "samples": tunnel.samples,
        "fanout": fanout,
        "run": run,
    }
    if method.at_stall == "consensus":
        ask = partial(_ask, model, task, shared)
        return Consensus(task, model, optimizer, detector, goal=goal, ask=ask, seed=seed, on_event=on_event)
    make = partial(
        Tunneller,
        model,
        **shared,
        data=task.train.tensors,
        task=task.kind,
        patience=defaults.patience,
        min_delta=defaults.min_delta,
        delta_mode=defaults.delta_mode,
        cooldown=COOLDOWN,
        layer=tunnel.layer,
        objective=tunnel.objective,
        radius=tunnel.radius,
        tail_radius=tunnel.tail_radius,
        first_after=tunnel.first_after,
        sync=sync,
        seed=seed,
        on_event=on_event,
    )
    return Tunnels(lambda validate: make(validate=validate), task, model)


def _ask(model: nn.Module, task: Task, shared: dict[str, Any], *, consensus: bool, **details: Any) -> Tunneller:
    """A tunneller that asks at once and waits: for what fits mean outputs best, or for the task's own objective."""
    asked: dict[str, Any] = {"task": task.kind, "objective": task.tunnel.objective}
    if consensus:
        asked = {"task": "regression", "objective": "mse"}
    return Tunneller(model, **shared, **details, **asked, layer=AUTO, sync=True, first_after=1, min_delta=0.0)
