"""The networks, trained by GD once for each task and seed, and the features that their last layers see."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.requirements.measures import Layer, Part
from benchmarks.requirements.settings import Setting
from trainer.lab.tasks import Request, Split, Task, load_task
from trainer.lab.tasks.known_tables import adult, adult_sexes

BATCH, VERSION = 64, 1
PARTS = ("selection", "validation", "test")


@dataclass(frozen=True, eq=False)
class Case:
    """What every method gets: the layer as trained, held-out and test samples, and the training classes' sizes [K]."""

    layer: Layer
    selection: Part
    validation: Part
    test: Part
    sizes: np.ndarray
    train_s: float

    @property
    def held_out(self) -> Part:
        """All samples that are neither for training nor for testing."""
        return self.selection.joined(self.validation)


def load(setting: Setting, seed: int, data_dir: Path, cache: Path) -> Case:
    """The case of a seed; the network is trained where `cache` does not hold it yet."""
    key = f"{setting.task}-{setting.long_tailed}-{setting.blind}-{setting.epochs}-{seed}-{VERSION}"
    file = cache / f"{key}.npz"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, **_trained(setting, seed, data_dir))
    with np.load(file) as held:
        arrays = {name: held[name] for name in held.files}
    parts = {name: Part(*(arrays[f"{name}_{kind}"] for kind in ("x", "y", "group"))) for name in PARTS}
    parts = {name: _kept(part, setting, name) for name, part in parts.items()}
    layer = Layer(arrays["weight"].astype(np.float64), arrays["bias"].astype(np.float64))
    if setting.kind == "gap":
        # The attribute may be used: the last layer sees it beside its features, at first with no weight.
        parts = {name: replace(part, features=_with_group(part)) for name, part in parts.items()}
        layer = Layer(np.pad(layer.weight, ((0, 0), (0, 1))), layer.bias)
    return Case(layer, **parts, sizes=arrays["sizes"], train_s=float(arrays["train_s"]))


def _kept(part: Part, setting: Setting, name: str) -> Part:
    """The first samples of a held-out part (they are in random order), as many as the setting uses."""
    return part if setting.held_out is None or name == "test" else part[slice(setting.held_out)]


def _with_group(part: Part) -> np.ndarray:
    return np.column_stack([part.features, part.group]).astype(np.float32)


def _trained(setting: Setting, seed: int, data_dir: Path) -> dict[str, np.ndarray]:
    """Train by Adam, keep the epoch that is best on selection data, and pass all held-out samples through it."""
    task = _task(setting, seed, data_dir)
    torch.manual_seed(seed)
    model = _model(task)
    began, best, state = time.process_time(), -1.0, model.state_dict()
    optimizer = torch.optim.Adam(model.parameters(), lr=task.defaults.adam_lr)
    for _ in range(setting.epochs):
        for chosen in torch.randperm(len(task.train)).split(BATCH):
            optimizer.zero_grad()
            part = task.train[chosen]
            nn.functional.cross_entropy(model(part.inputs), part.targets).backward()
            optimizer.step()
        if (score := task.score(model, task.selection)) > best:
            best, state = score, {name: value.clone() for name, value in model.state_dict().items()}
    train_s = time.process_time() - began
    model.load_state_dict(state)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    held = {"weight": last.weight.detach().numpy(), "bias": last.bias.detach().numpy()}
    groups = adult_sexes(seed, data_dir) if setting.task == "adult" else None
    for name in PARTS:
        split: Split = getattr(task, name)
        held[f"{name}_x"], held[f"{name}_y"] = _features(model, split), split.targets.numpy()
        held[f"{name}_group"] = np.zeros(len(split), dtype=np.int64) if groups is None else groups[name].numpy()
    sizes = np.bincount(task.train.targets.numpy(), minlength=task.outputs)
    return held | {"sizes": sizes, "train_s": np.array(train_s)}


def _task(setting: Setting, seed: int, data_dir: Path) -> Task:
    if setting.blind:
        return adult(seed, data_dir, left_out=("sex",))
    return load_task(Request(setting.task, long_tailed=setting.long_tailed, data_dir=data_dir), seed)


def _model(task: Task) -> nn.Sequential:
    """The table's own network; for images two convolutions with pooling and a hidden layer of 64."""
    shape = task.train.inputs.shape[1:]
    if len(shape) == 1:
        model = task.model()
        assert isinstance(model, nn.Sequential)
        return model
    channels, height, width = shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * (height // 4) * (width // 4), 64), nn.ReLU()),
        nn.Linear(64, task.outputs),
    )


def _features(model: nn.Sequential, split: Split) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        found = torch.cat([model[:-1](part) for part in split.inputs.split(1000)])
    model.train()
    return np.asarray(found.numpy())
