"""What a task is: data in four separate parts, a model to train on it, and defaults that suit both."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from shared.objectives import ObjectiveName
from shared.snapshot import Task as Kind
from trainer.errors import TaskError
from trainer.lab.losses import Losses
from trainer.scores import Mode
from trainer.stalls.detector import DeltaMode

LONG_TAILED = "--long-tailed"
SplitName = Literal["train", "selection", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs [N, ...] float32, targets, int64 [N] or float32 [N, k], and weights float32 [N] (None: all alike).

    Weights have mean 1 over the training samples, so that they leave learning rates as they are.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def tensors(self) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets, and weights where there are any."""
        return (self.inputs, self.targets) if self.weights is None else (self.inputs, self.targets, self.weights)

    def __getitem__(self, chosen: Tensor) -> "Split":
        weights = None if self.weights is None else self.weights[chosen]
        return Split(self.inputs[chosen], self.targets[chosen], weights)


@dataclass(frozen=True)
class Defaults:
    """How to train: most epochs, batch size, learning rate per optimizer, and when GD counts as stalled (in epochs).

    `until_stalled` ends a run after so many epochs without a gain, if it is not None.
    """

    epochs: int = 60
    until_stalled: int | None = None
    batch_size: int = 32
    sgd_lr: float = 0.1
    adam_lr: float = 1e-3
    weight_decay: float = 1e-2
    """AdamW's; the others have none."""
    patience: int = 5
    min_delta: float = 1e-3
    """Least gain that ends a plateau or lets an answer in, in the metric's units or as a share of it (`delta_mode`)."""
    delta_mode: DeltaMode = "abs"


@dataclass(frozen=True)
class Tunnel:
    """What to have solved: objective, layer (None: the last), radii, a job's seconds and samples, and whether the first
    job is posted before any stall, after so many epochs."""

    objective: ObjectiveName
    layer: str | None = None
    radius: float | None = None
    tail_radius: float | None = None
    time_s: float = 5.0
    samples: int = 1000
    first_after: int | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """A data set with its model.

    The four parts share no sample. `train` is what GD and the solver see. `selection` is watched after each epoch, by
    every method: it says when training has stalled and which epoch's weights are reported. `validation` decides whether
    an answer is adopted, so that what is selected and what is adopted are judged by different samples; both together
    judge what is done after the last epoch. `test` is
    looked at once, after training, and its labels are never falsified.
    """

    name: str
    kind: Kind
    train: Split
    selection: Split
    validation: Split
    test: Split
    model: Callable[[], nn.Module]
    defaults: Defaults
    tunnel: Tunnel

    @property
    def outputs(self) -> int:
        """How many numbers the model puts out for a sample: one a class, or one a target."""
        if self.kind == "regression":
            return self.train.targets.shape[1]
        parts = (self.train, self.selection, self.validation, self.test)
        return int(max(part.targets.max().item() for part in parts)) + 1

    @property
    def metric(self) -> str:
        """The name of the metric: accuracy for classification, mse for regression."""
        return "accuracy" if self.kind == "classification" else "mse"

    @property
    def mode(self) -> Mode:
        """Whether higher or lower metrics are better."""
        return "max" if self.kind == "classification" else "min"

    def score(self, model: nn.Module, split: Split, batch: int = 2000) -> float:
        """The metric of a model on one part, in evaluation mode; the model's modes are put back."""
        was_training = model.training
        model.eval()
        with torch.no_grad():
            outputs = torch.cat([model(part) for part in torch.split(split.inputs, batch)])
        model.train(was_training)
        if self.kind == "classification":
            scores = (outputs.argmax(dim=1) == split.targets).double()
        else:
            scores = (outputs.double() - split.targets.double()).square()
        return _mean(scores, None if split.weights is None else split.weights.double()).item()

    def score_on_both(self, model: nn.Module) -> float:
        """The mean metric on selection and validation: the last word, when no epoch follows that could tell them apart.

        What is the best of many on few samples is so partly by luck, and twice as many are harder to please.
        """
        return 0.5 * (self.score(model, self.selection) + self.score(model, self.validation))

    def loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, each: Losses | None = None
    ) -> Tensor:
        """What GD minimises: the mean of cross-entropy or squared error, each sample's times its weight.

        `each` gives every sample another loss [N] instead.
        """
        if each is not None:
            found = each(outputs, targets)
            return found.mean() if weights is None else (weights @ found) / len(weights)
        if self.kind == "classification":
            losses = partial(nn.functional.cross_entropy, outputs, targets)
        else:
            losses = partial(nn.functional.mse_loss, outputs, targets)
        # Divided by the number of samples, not by their weight: a batch of light samples is a small step.
        if weights is None:
            return losses()
        return (weights @ losses(reduction="none")).mean() / len(weights)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of values [N] or [N, k] over all, each sample's times its share of the weights [N]."""
    if weights is None:
        return values.mean()
    return (weights @ values).mean() / weights.sum()


@dataclass(frozen=True)
class Shares:
    """Which part of the samples goes to selection, validation and test; the rest is for training."""

    selection: float = 0.12
    validation: float = 0.12
    test: float = 0.2


def split(whole: Split, seed: int, shares: Shares, test: Split | None = None) -> dict[SplitName, Split]:
    """Divide samples at random (by `seed` alone) into the four parts; `test` stands for a data set's own test part."""
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    counts = [round(share * len(whole)) for share in (shares.selection, shares.validation, shares.test)]
    if test is not None:
        counts[2] = 0
    rest = len(whole) - sum(counts)
    if rest < 1 or min(counts[0], counts[1]) < 1 or (test is None and counts[2] < 1):
        raise TaskError(f"{len(whole)} samples are too few to be divided into four parts", field="data")
    train, selection, validation, last = torch.split(order, [rest, *counts])
    return {
        "train": whole[train],
        "selection": whole[selection],
        "validation": whole[validation],
        "test": whole[last] if test is None else test,
    }


def with_fraction(task: Task, fraction: float, seed: int) -> Task:
    """The task with only a part of its training samples, chosen at random."""
    return replace(task, train=fraction_of(task.train, fraction, seed))


def fraction_of(train: Split, fraction: float, seed: int) -> Split:
    """A share of the training samples, chosen at random; TaskError unless it is more than 0 and at most 1."""
    if not 0 < fraction <= 1:
        raise TaskError(
            f"{fraction:g} is not a share of the training data; use more than 0 and at most 1", field="--fraction"
        )
    if fraction == 1:
        return train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train[order[: max(1, round(fraction * len(train)))]]


def with_long_tail(task: Task, ratio: float | None, seed: int) -> Task:
    """The task with training samples of class k thinned to `n ratio^(-k / (classes - 1))`, as CIFAR-10-LT is made.

    n is the size of the smallest class before. The other parts stay as they are: what is asked of rare classes has to
    be seen there (Cui et al. 2019).
    """
    if ratio is None:
        return task
    if not ratio >= 1:
        raise TaskError(f"{ratio:g} is no ratio of the largest class to the smallest; use 1 or more", field=LONG_TAILED)
    if task.kind == "regression":
        raise TaskError(f"{task.name} is a regression and has no classes to thin out", field=LONG_TAILED)
    targets, classes = task.train.targets, task.outputs
    most = int(torch.bincount(targets, minlength=classes).min())
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for number in range(classes):
        members = torch.nonzero(targets == number)[:, 0]
        wanted = max(1, round(most * ratio ** (-number / max(1, classes - 1))))
        kept.append(members[torch.randperm(len(members), generator=generator)[:wanted]])
    return replace(task, train=task.train[torch.cat(kept)])


def with_label_noise(task: Task, probability: float, seed: int) -> Task:
    """The task with wrong labels: in all parts but the test, each becomes another class with `probability`."""
    if not 0 <= probability < 1:
        raise TaskError(f"{probability:g} is not a probability; use 0 or more and less than 1", field="--label-noise")
    if probability == 0:
        return task
    if task.kind == "regression":
        raise TaskError(f"{task.name} is a regression and has no labels to falsify", field="--label-noise")
    generator = np.random.default_rng([seed, 1])
    parts: dict[str, Split] = {}
    for name in ("train", "selection", "validation"):
        part: Split = getattr(task, name)
        targets = _falsified(part.targets, probability, generator, task.outputs)
        parts[name] = replace(part, targets=targets)
    return replace(task, **parts)  # type: ignore[arg-type]


def _falsified(labels: Tensor, probability: float, generator: np.random.Generator, classes: int) -> Tensor:
    wrong = torch.from_numpy(generator.random(len(labels)) < probability)
    shift = torch.from_numpy(generator.integers(1, classes, len(labels)))
    return torch.where(wrong, (labels + shift) % classes, labels)
