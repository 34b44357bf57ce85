"""Scikit-learn's 8 x 8 digits with a small network: the task that needs no download."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from trainer.lab.tasks.base import Defaults, Shares, Split, Task, Tunnel, split


def digits(seed: int) -> Task:
    """1,797 digits in 10 classes; a 64-16-10 ReLU network."""
    bunch = load_digits()
    inputs = torch.from_numpy(bunch.data).float() / 16.0
    parts = split(Split(inputs, torch.from_numpy(bunch.target).long()), seed, Shares(0.15, 0.15, 0.2))
    return Task(
        name="digits",
        kind="classification",
        **parts,
        model=lambda: nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)),
        defaults=Defaults(epochs=200, batch_size=16, sgd_lr=0.1, adam_lr=2e-3, patience=4, min_delta=1e-3),
        tunnel=Tunnel("ramp", time_s=2.0),
    )
