"""Sets up what a method does at a stall."""

from functools import partial

from torch import nn
from torch.optim import Optimizer

from trainer.journal import OnEvent
from trainer.lab.at_stall.plain import AtStall, Nothing, Restart
from trainer.lab.at_stall.renew import Renew
from trainer.lab.at_stall.tunnels import Tunnels
from trainer.lab.finishing import FINISHES, Finish
from trainer.lab.methods import Method
from trainer.lab.redo import Redo
from trainer.lab.tasks import Task
from trainer.pool.client import SolverClient
from trainer.snapshots.blocks import find_layer
from trainer.stalls.detector import StallDetector
from trainer.stalls.policy import AUTO
from trainer.tunneller import Tunneller

COOLDOWN = 2


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
