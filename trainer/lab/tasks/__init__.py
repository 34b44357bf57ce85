"""Data sets with the models that are trained on them, by the name the command line knows them by."""

from dataclasses import dataclass
from pathlib import Path

from shared.snapshot import Task as Kind
from trainer.errors import TaskError
from trainer.lab.tasks.base import Defaults, Split, Task, Tunnel, with_fraction, with_label_noise
from trainer.lab.tasks.digits import digits
from trainer.lab.tasks.images import URLS, images
from trainer.lab.tasks.synthetic import FUNCTIONS, synthetic
from trainer.lab.tasks.table import table

NAMES = ("digits", "mnist", "fashion-mnist", "identity", "affine", "polynomial", "formula", "csv:FILE")


@dataclass(frozen=True)
class Request:
    """Which task, and what the user wants different about it."""

    name: str
    target: str | None = None
    kind: Kind | None = None
    fraction: float = 1.0
    label_noise: float = 0.0
    data_dir: Path | None = None


def load_task(request: Request, seed: int) -> Task:
    """Load or draw a task's data; the division into parts depends on `seed` alone. Raises TaskError."""
    task = _plain(request, seed)
    return with_label_noise(with_fraction(task, request.fraction, seed), request.label_noise, seed)


def _plain(request: Request, seed: int) -> Task:
    name = request.name
    if name == "digits":
        return digits(seed)
    if name in FUNCTIONS:
        return synthetic(name, seed)
    if name in URLS:
        return images(name, seed, request.data_dir)
    if name.startswith("csv:"):
        return table(Path(name.removeprefix("csv:")), request.target, request.kind, seed)
    raise TaskError(f"there is no task {name!r}; choose one of {', '.join(NAMES)}", field="TASK")


__all__ = ["NAMES", "Defaults", "Request", "Split", "Task", "Tunnel", "load_task"]
