"""Confident learning: samples whose labels a model that has not seen them confidently contradicts are left out."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Adam

from trainer.errors import TaskError
from trainer.lab.tasks import Split, Task

FOLDS = 2
EPOCHS = 15
"""Of each fold's model: it has to know the classes, not the samples."""


def pruned(task: Task, seed: int) -> Task:
    """The task without the training samples whose labels are probably wrong (Northcutt, Jiang and Chuang 2021).

    A sample goes if its most likely class, by a model trained on the other fold, is not its label and at least as
    likely as that class is on the mean of the samples that bear it. TaskError for a regression.
    """
    if task.kind != "classification":
        raise TaskError(f"pruned is for wrong labels; {task.name} has numbers", field="--methods")
    keep = ~doubtful(out_of_sample(task, seed), task.train.targets)
    return replace(task, train=task.train[keep.nonzero().squeeze(1)])


def out_of_sample(task: Task, seed: int) -> Tensor:
    """Probabilities [N, C] of every training sample's classes, each by a model that was trained without it."""
    shuffle = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(task.train), generator=shuffle)
    likely = torch.zeros(len(task.train), task.outputs)
    for fold in range(FOLDS):
        held, others = order[fold::FOLDS], torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold])
        model = _trained(task, task.train[others], shuffle)
        with torch.no_grad():
            likely[held] = model(task.train.inputs[held]).softmax(dim=1)
    return likely


def doubtful(likely: Tensor, labels: Tensor) -> Tensor:
    """Which samples [N] are confidently of another class than their label, by probabilities [N, C]."""
    classes = likely.shape[1]
    marked = nn.functional.one_hot(labels, classes).to(likely.dtype)
    usual = (likely * marked).sum(dim=0) / marked.sum(dim=0).clamp(min=1.0)  # of each class where it is the label
    usual = torch.where(marked.sum(dim=0) > 0, usual, 1.0)
    confident = torch.where(likely >= usual, likely, -1.0)
    best, chosen = confident.max(dim=1)
    return (best > 0) & (chosen != labels)


def _trained(task: Task, train: Split, shuffle: torch.Generator) -> nn.Module:
    model, settings = task.model(), task.defaults
    optimizer = Adam(model.parameters(), lr=settings.adam_lr)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(train), generator=shuffle), settings.batch_size):
            batch = train[rows]
            optimizer.zero_grad()
            task.loss(model(batch.inputs), batch.targets, batch.weights).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()
