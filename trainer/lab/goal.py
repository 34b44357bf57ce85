"""What GD minimises at present: a loss of each sample, and the price of the weights' squares."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from trainer.lab.losses import LOSSES, Losses
from trainer.lab.tasks import Split, Task

FOR_NUMBERS = ((None, 1e-4), (None, 1e-3), (None, 0.0), (None, 1e-2))
FOR_CLASSES = ((None, 1e-3), ("gce", 1e-3), (None, 1e-2), ("gce", 1e-4))
"""Losses and prices that starts take in turn: which of them suits the data, only data held out can say."""


@dataclass
class Goal:
    """The loss of each sample (None: the task's own), and `decay`, the price of squared weights; biases are free."""

    losses: Losses | None = None
    decay: float = 0.0

    def __call__(self, task: Task, model: nn.Module, batch: Split) -> Tensor:
        """Its value on a batch, with a gradient."""
        loss = task.loss(model(batch.inputs), batch.targets, batch.weights, self.losses)
        if not self.decay:
            return loss
        unit = _unit(task)
        squares = [weight.square().sum() for weight in model.parameters() if weight.dim() > 1 and weight.requires_grad]
        return loss + self.decay * unit * sum(squares)

    def become(self, other: "Goal") -> None:
        """Be another one from now on."""
        self.losses, self.decay = other.losses, other.decay


def goals(task: Task) -> Iterator[Goal]:
    """The goals that starts on this task take in turn."""
    for loss, decay in FOR_NUMBERS if task.kind == "regression" else FOR_CLASSES:
        yield Goal(LOSSES[loss] if loss else None, decay)


def _unit(task: Task) -> float:
    """The size of the loss, so that a price means the same whatever the targets' unit: their variance, 1 of classes."""
    return float(task.train.targets.var()) if task.kind == "regression" else 1.0
