"""The training methods that are compared: what practitioners would do, the hybrid, and the hybrid without solver."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from trainer.errors import TaskError
from trainer.lab.goal import Goal
from trainer.lab.losses import LOSSES
from trainer.lab.tasks import Defaults, Task

Schedule = Literal["none", "plateau", "cosine"]
AtStallName = Literal["nothing", "tunnel", "restart", "renew", "redo", "refit", "ramp", "prices", "consensus"]


@dataclass(frozen=True)
class Method:
    """A way to train: which GD, on which loss (None: the task's own), how its learning rate falls, what a stall brings.

    `refit` and `ramp` bring nothing at a stall but something after the last epoch (`trainer/lab/finishing.py`).
    """

    name: str
    optimizer: Literal["sgd", "adam", "adamw", "lbfgs"]
    schedule: Schedule = "none"
    at_stall: Literal["nothing", "tunnel", "restart", "renew", "redo", "refit", "ramp", "prices", "consensus"] = (
        "nothing"
    )
    loss: str | None = None
    decay: float = 0.0
    """The price of squared weights; AdamW has its own."""
    prunes: bool = False
    """Whether samples whose labels are probably wrong are left out first (`trainer/lab/pruning.py`)."""

    @property
    def tunnels(self) -> bool:
        """Whether it needs a solver pool."""
        return self.at_stall in ("tunnel", "consensus")

    @property
    def full_batch(self) -> bool:
        """Whether an epoch is one step on all training samples at once."""
        return self.optimizer == "lbfgs"

    def goal(self, task: Task) -> Goal:
        """What it minimises; TaskError if the task is not one for its loss."""
        if self.loss is not None and task.kind == "regression":
            raise TaskError(f"{self.name} is a loss for wrong labels; {task.name} has numbers", field="--methods")
        return Goal(None if self.loss is None else LOSSES[self.loss], self.decay)


METHODS = {
    method.name: method
    for method in (
        Method("sgd", "sgd"),
        Method("sgd-lrs", "sgd", schedule="plateau"),
        Method("sgd-cosine", "sgd", schedule="cosine"),
        Method("adam", "adam"),
        Method("adam-lrs", "adam", schedule="plateau"),
        Method("adamw", "adamw"),
        Method("adamw-cosine", "adamw", schedule="cosine"),
        Method("lbfgs", "lbfgs", at_stall="renew"),
        Method("lbfgs-prices", "lbfgs", at_stall="prices"),
        Method("adam-renew", "adam", at_stall="renew"),
        Method("refit", "adam", at_stall="refit"),
        Method("ramp", "adam", at_stall="ramp"),
        Method("gce", "adam", loss="gce"),
        Method("sce", "adam", loss="sce"),
        Method("trimmed", "adam", loss="trimmed"),
        Method("tempered", "adam", loss="tempered"),
        Method("pruned", "adam", prunes=True),
        Method("lbfgs-gce", "lbfgs", at_stall="renew", loss="gce"),
        Method("redo", "adam", at_stall="redo"),
        Method("restart", "adam", at_stall="restart"),
        Method("hybrid", "adam", at_stall="tunnel"),
        Method("hybrid-gce", "adam", at_stall="tunnel", loss="gce"),
        Method("hybrid-lbfgs", "lbfgs", at_stall="consensus"),
    )
}
"""By name. The hybrid is `adam` plus tunnels, so `adam` is its twin: without an adoption both end bit for bit alike.

`restart` is the hybrid with the solver left out: at the same stalls it drops the optimizer's state for the same layer.
`lbfgs` and `adam-renew` begin anew at each stall, from new weights, and take the start that is best on selection and
validation data.
`ramp` is GD on cross-entropy and then on the ramp; `gce`, `sce`, `trimmed` and `tempered` have their losses from the
start. `lbfgs-prices` begins anew as `lbfgs` does, with another price of weights each time, and of classes with another
loss, too (`goal.py`). `hybrid-lbfgs` is that, and in the end tunnels to what its best starts agree on: for networks
small enough to go whole.
"""
LBFGS_ITERATIONS = 20
"""In an epoch: about as many passes over the data as there are in so many epochs of the others."""


def make_optimizer(method: Method, model: nn.Module, defaults: Defaults) -> Optimizer:
    """SGD with momentum 0.9, Adam or AdamW, with the task's learning rate for it, or L-BFGS with a line search."""
    if method.optimizer == "lbfgs":
        return LBFGS(model.parameters(), max_iter=LBFGS_ITERATIONS, history_size=20, line_search_fn="strong_wolfe")
    if method.optimizer == "sgd":
        return SGD(model.parameters(), lr=defaults.sgd_lr, momentum=0.9)
    if method.optimizer == "adamw":
        return AdamW(model.parameters(), lr=defaults.adam_lr, weight_decay=defaults.weight_decay)
    return Adam(model.parameters(), lr=defaults.adam_lr)


def steps_per_epoch(method: Method, task: Task) -> int:
    """How many steps a method does in an epoch: one a batch, or L-BFGS's iterations at most."""
    return LBFGS_ITERATIONS if method.full_batch else -(-len(task.train) // task.defaults.batch_size)


class RateSchedule:
    """How a method's learning rate falls: not at all, halved whenever the hybrid would call the solver, or as a cosine.

    The cosine goes to 0 at the last of `epochs`.
    """

    def __init__(self, method: Method, optimizer: Optimizer, task: Task, epochs: int) -> None:
        settings = task.defaults
        self._plateau = self._cosine = None
        if method.schedule == "cosine":
            self._cosine = CosineAnnealingLR(optimizer, T_max=epochs)
        elif method.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(
                optimizer,
                task.mode,
                factor=0.5,
                patience=settings.patience - 1,
                threshold=settings.min_delta,
                threshold_mode=settings.delta_mode,
            )

    def step(self, score: float) -> None:
        """Take the score of the epoch that is over."""
        if self._plateau is not None:
            self._plateau.step(score)
        elif self._cosine is not None:
            self._cosine.step()

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        schedule = self._plateau or self._cosine
        return {} if schedule is None else dict(schedule.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        if (schedule := self._plateau or self._cosine) is not None:
            schedule.load_state_dict(state)
