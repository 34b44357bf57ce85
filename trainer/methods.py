"""The training methods that are compared: four kinds of plain GD, the hybrid, and the hybrid without its solver."""

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainer.tasks import Defaults, Task


@dataclass(frozen=True)
class Method:
    """A way to train: which GD, with or without a learning-rate schedule, and what happens at a stall."""

    name: str
    optimizer: Literal["sgd", "adam"]
    schedule: bool = False
    at_stall: Literal["nothing", "tunnel", "restart"] = "nothing"


METHODS = {
    method.name: method
    for method in (
        Method("sgd", "sgd"),
        Method("sgd-lrs", "sgd", schedule=True),
        Method("adam", "adam"),
        Method("adam-lrs", "adam", schedule=True),
        Method("restart", "adam", at_stall="restart"),
        Method("hybrid", "adam", at_stall="tunnel"),
    )
}
"""By name. The hybrid is `adam` plus tunnels, so `adam` is its twin: without an adoption both end bit for bit alike.

`restart` is the hybrid with the solver left out: at the same stalls it drops the optimizer's state for the same layer.
"""


def make_optimizer(method: Method, model: nn.Module, defaults: Defaults) -> Optimizer:
    """SGD with momentum 0.9, or Adam, with the task's learning rate for it."""
    if method.optimizer == "sgd":
        return SGD(model.parameters(), lr=defaults.sgd_lr, momentum=0.9)
    return Adam(model.parameters(), lr=defaults.adam_lr)


def make_schedule(method: Method, optimizer: Optimizer, task: Task) -> ReduceLROnPlateau | None:
    """Halve the learning rate whenever the hybrid would call the solver, or None."""
    if not method.schedule:
        return None
    settings = task.defaults
    return ReduceLROnPlateau(
        optimizer,
        task.mode,
        factor=0.5,
        patience=settings.patience - 1,
        threshold=settings.min_delta,
        threshold_mode=settings.delta_mode,
    )
