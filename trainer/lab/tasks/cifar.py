"""CIFAR-10 in its official binary files, with a small network that people would use, and the paper's."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainer.errors import TaskError
from trainer.lab.tasks.base import Defaults, Shares, Split, Task, Tunnel, split

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
RECORD = 1 + 3 * 32 * 32
"""Bytes of an image: its label, then the red, green and blue pixels row by row."""
MEAN, SPREAD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the training pixels in each channel, as they are quoted everywhere."""


def cifar(name: str, seed: int, data_dir: Path | None) -> Task:
    """32 x 32 colour images in 10 classes. Raises TaskError for a file that is missing or cut short.

    `cifar10` has two convolutions with pooling and a 1024-10 layer; `cifar10-paper` the network that the paper has for
    MNIST: 3 filters of 4 x 4, ReLU, and a 2523-10 linear layer.
    """
    train = [_read(data_dir, file) for file in TRAIN_FILES]
    whole = Split(torch.cat([part.inputs for part in train]), torch.cat([part.targets for part in train]))
    return Task(
        name=name,
        kind="classification",
        **split(whole, seed, Shares(selection=0.05, validation=0.05), test=_read(data_dir, TEST_FILE)),
        model=_paper_network if name.endswith("-paper") else _network,
        defaults=Defaults(epochs=30, batch_size=64, sgd_lr=0.02, adam_lr=1e-3, patience=2, min_delta=1e-3),
        tunnel=Tunnel("ramp", time_s=3.0),
    )


def _network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 10)),
    )


def _paper_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(2523, 10))


def _read(data_dir: Path | None, file: str) -> Split:
    """One file as images [N, 3, 32, 32] of mean 0 and spread 1, and labels [N]."""
    if data_dir is None:
        raise TaskError(f"set GDSOLVER_DATA to a folder that holds {FOLDER}/{file}", field="cifar10")
    path = data_dir / FOLDER / file
    if not path.is_file():
        raise TaskError(f"{path} is missing; the folder needs the official binary version", field="GDSOLVER_DATA")
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) == 0 or len(content) % RECORD:
        raise TaskError(f"{path} has {len(content)} bytes, no whole number of images of {RECORD}", field="data")
    records = content.reshape(-1, RECORD)
    labels = torch.from_numpy(records[:, 0].astype(np.int64))
    if labels.max() > 9:
        raise TaskError(f"{path} has a label {int(labels.max())}; CIFAR-10's are 0 to 9", field="data")
    return Split(_standardised(torch.from_numpy(records[:, 1:].copy()).reshape(-1, 3, 32, 32)), labels)


def _standardised(pixels: Tensor) -> Tensor:
    mean, spread = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, SPREAD))
    return pixels.float().div_(255.0).sub_(mean).div_(spread)
