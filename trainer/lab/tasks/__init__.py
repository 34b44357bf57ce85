"""Data sets with the models that are trained on them, by the name the command line knows them by."""

from dataclasses import dataclass, field
from pathlib import Path

from shared.snapshot import Task as Kind
from trainer.errors import TaskError
from trainer.lab.tables.reading import Reading
from trainer.lab.tasks.base import Defaults, Split, Task, Tunnel, with_fraction, with_label_noise, with_long_tail
from trainer.lab.tasks.cifar import cifar
from trainer.lab.tasks.digits import digits
from trainer.lab.tasks.images import URLS, images
from trainer.lab.tasks.known_tables import adult, california
from trainer.lab.tasks.models import with_hidden, with_model
from trainer.lab.tasks.synthetic import FUNCTIONS, synthetic
from trainer.lab.tasks.table import table
from trainer.lab.tasks.uci import uci

NAMES = (
    *("digits", "mnist", "fashion-mnist", "cifar10", "cifar10-paper", "adult", "california-housing"),
    *("identity", "affine", "polynomial", "formula", "csv:FILE", "uci:NAME"),
)


@dataclass(frozen=True)
class Request:
    """Which task, and what the user wants different about it.

    `model` is PACKAGE.MODULE:FACTORY, `hidden` the widths of a multi-layer perceptron's hidden layers.
    """

    name: str
    target: str | None = None
    kind: Kind | None = None
    fraction: float = 1.0
    label_noise: float = 0.0
    long_tailed: float | None = None
    data_dir: Path | None = None
    reading: Reading = field(default_factory=Reading)
    model: str | None = None
    hidden: tuple[int, ...] | None = None


def load_task(request: Request, seed: int) -> Task:
    """Load or draw a task's data; the division into parts depends on `seed` alone. Raises TaskError."""
    task = with_long_tail(_plain(request, seed), request.long_tailed, seed)
    task = with_label_noise(task, request.label_noise, seed)
    if request.model and request.hidden:
        raise TaskError("a model of your own has its own widths; give --hidden or --model", field="--hidden")
    if request.hidden:
        return with_hidden(task, request.hidden)
    return with_model(task, request.model) if request.model else task


def _plain(request: Request, seed: int) -> Task:
    name, fraction = request.name, request.fraction
    # Tables are standardised by what they are trained on, so they have to know the fraction.
    if name.startswith("csv:"):
        path = Path(name.removeprefix("csv:"))
        return table(path, request.target, request.kind, seed, request.reading, fraction)
    if name.startswith("uci:"):
        return uci(name.removeprefix("uci:"), seed, request.data_dir, fraction)
    if request.reading != Reading():
        raise TaskError(f"{name} is no table; only csv:FILE has columns to choose from", field="TASK")
    if name == "adult":
        return adult(seed, request.data_dir, fraction)
    if name == "california-housing":
        return california(seed, request.data_dir, fraction)
    return with_fraction(_named(request, seed), fraction, seed)


def _named(request: Request, seed: int) -> Task:
    name = request.name
    if name == "digits":
        return digits(seed)
    if name in FUNCTIONS:
        return synthetic(name, seed)
    if name in URLS:
        return images(name, seed, request.data_dir)
    if name in ("cifar10", "cifar10-paper"):
        return cifar(name, seed, request.data_dir)
    raise TaskError(f"there is no task {name!r}; choose one of {', '.join(NAMES)}", field="TASK")


__all__ = ["NAMES", "Defaults", "Reading", "Request", "Split", "Task", "Tunnel", "load_task"]
