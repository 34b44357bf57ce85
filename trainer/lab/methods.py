"""The training methods that are compared: plain GD, L-BFGS with restarts, the hybrid, and the hybrid without solver."""

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainer.lab.tasks import Defaults, Task


@dataclass(frozen=True)
class Method:
    """A way to train: which GD, with or without a learning-rate schedule, and what happens at a stall."""

    name: str
    optimizer: Literal["sgd", "adam", "lbfgs"]
    schedule: bool = False
    at_stall: Literal["nothing", "tunnel", "restart", "renew"] = "nothing"

    @property
    def full_batch(self) -> bool:
        """Whether an epoch is one step on all training samples at once."""
        return self.optimizer == "lbfgs"


METHODS = {
    method.name: method
    for method in (
        Method("sgd", "sgd"),
        Method("sgd-lrs", "sgd", schedule=True),
        Method("adam", "adam"),
        Method("adam-lrs", "adam", schedule=True),
        Method("lbfgs", "lbfgs", at_stall="renew"),
        Method("adam-renew", "adam", at_stall="renew"),
        Method("restart", "adam", at_stall="restart"),
        Method("hybrid", "adam", at_stall="tunnel"),
    )
}
"""By name. The hybrid is `adam` plus tunnels, so `adam` is its twin: without an adoption both end bit for bit alike.

`restart` is the hybrid with the solver left out: at the same stalls it drops the optimizer's state for the same layer.
`lbfgs` and `adam-renew` begin anew at each stall, from new weights, and take the start that is best on selection and
validation data.
"""
LBFGS_ITERATIONS = 20
"""In an epoch: about as many passes over the data as there are in so many epochs of the others."""


def make_optimizer(method: Method, model: nn.Module, defaults: Defaults) -> Optimizer:
    """SGD with momentum 0.9 or Adam, with the task's learning rate for it, or L-BFGS with a line search."""
    if method.optimizer == "lbfgs":
        return LBFGS(model.parameters(), max_iter=LBFGS_ITERATIONS, history_size=20, line_search_fn="strong_wolfe")
    if method.optimizer == "sgd":
        return SGD(model.parameters(), lr=defaults.sgd_lr, momentum=0.9)
    return Adam(model.parameters(), lr=defaults.adam_lr)


def steps_per_epoch(method: Method, task: Task) -> int:
    """How many steps a method does in an epoch: one a batch, or L-BFGS's iterations at most."""
    return LBFGS_ITERATIONS if method.full_batch else -(-len(task.train) // task.defaults.batch_size)


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
