"""The user's own CSV table as a task: the column to predict, the others as inputs, nothing guessed in silence."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.snapshot import Task as Kind
from trainer.errors import TaskError
from trainer.lab.tables.columns import decimal_marks, read_numbers, refuse_totals, word
from trainer.lab.tables.features import MOST_WORDS, encode
from trainer.lab.tables.numerals import NO_VALUE
from trainer.lab.tables.reading import Column, Mark, Reading, read_table
from trainer.lab.tasks.base import Defaults, Shares, Split, SplitName, Task, Tunnel, fraction_of, split

HIDDEN = 32
CLASSES = Defaults(epochs=60, batch_size=32, sgd_lr=0.05, adam_lr=2e-3, patience=4, min_delta=1e-3)
NUMBERS = Defaults(
    epochs=600,
    until_stalled=60,
    batch_size=32,
    sgd_lr=0.05,
    adam_lr=2e-3,
    patience=5,
    min_delta=1e-2,
    delta_mode="rel",
)
"""A regression's error goes towards 0, so that gains are shares of it; it is trained until it has stalled for good."""
Parts = dict[SplitName, Split]


def table(
    path: Path, target: str | None, kind: Kind | None, seed: int, reading: Reading, fraction: float = 1.0
) -> Task:
    """A CSV file with a header line; `target` names the column to predict, every other column is an input.

    How cells are read is told in docs/tables.md. Every statistic comes from those training rows that are used
    (`fraction` of them). Rows without a target are refused. Raises TaskError, which names the option, file, column or
    cell and the cure.
    """
    _check_roles(target, reading)
    columns = read_table(path, reading)
    _check(path, columns, target, kind)
    assert target is not None
    refuse_totals(columns.values())
    decimals = decimal_marks(columns, reading.decimal)
    labels = replace(columns.pop(target), optional=False)
    weights = replace(columns.pop(reading.weights), optional=False) if reading.weights else None
    if not columns:
        raise TaskError(f"{path.name} has no column besides the target", field=str(path))
    regression = kind == "regression"
    targets, width = (_numbers(labels, decimals[target]), 1) if regression else _classes(labels, decimals[target])
    rows = Split(torch.arange(len(labels.cells)), targets, _weights(weights, decimals) if weights else None)
    parts = split(rows, seed, Shares())
    parts["train"] = fraction_of(parts["train"], fraction, seed)
    features = encode(columns, decimals, reading.words, parts["train"].inputs.numpy())
    return table_task(f"csv:{path.name}", parts, features, width, regression=regression)


def table_task(name: str, rows: Parts, features: NDArray[np.float32], width: int, *, regression: bool) -> Task:
    """A task of parts whose inputs are row numbers: `features` [rows, d] take their place.

    Regression targets, float64 until then, are standardised and weights scaled by the training part.
    """
    inputs = torch.from_numpy(features)
    parts = {part: replace(split_, inputs=inputs[split_.inputs]) for part, split_ in _weighed(rows).items()}
    if regression:
        parts = _standardised(parts)
    wide = inputs.shape[1]
    return Task(
        name=name,
        kind="regression" if regression else "classification",
        **parts,
        model=lambda: nn.Sequential(nn.Linear(wide, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width)),
        defaults=NUMBERS if regression else CLASSES,
        tunnel=Tunnel("mse", time_s=2.0, samples=5000) if regression else Tunnel("ramp"),
    )


def _check_roles(target: str | None, reading: Reading) -> None:
    """Raise TaskError for a column that two options name: it can be one thing only."""
    named = {"--target": (target,), "--weights": (reading.weights,), "--drop": reading.drop, "--words": reading.words}
    first: dict[str | None, str] = {}
    for option, names in named.items():
        for name in names:
            other = first.setdefault(name, option)
            if name is not None and other != option:
                raise TaskError(f"{name!r} is named by {other}, too; leave it out of one of them", field=option)


def _check(path: Path, columns: dict[str, Column], target: str | None, kind: Kind | None) -> None:
    """Raise TaskError unless the target is a column and its kind is told."""
    if target is None:
        raise TaskError(f"name the column to predict; {path.name} has: {', '.join(columns)}", field="--target")
    if target not in columns:
        hint = "; say how columns are separated with --separator" if len(columns) == 1 else ""
        raise TaskError(f"{path.name} has no column {target!r}; it has: {', '.join(columns)}{hint}", field="--target")
    if kind not in ("classification", "regression"):
        raise TaskError("say classification or regression", field="--kind")


def _numbers(column: Column, decimal: Mark) -> Tensor:
    """A regression's targets [N, 1], in float64."""
    _refuse_gaps(column, np.array([cell.lower() in NO_VALUE for cell in column.cells]))
    numbers = read_numbers(column, decimal)
    _refuse_gaps(column, np.isnan(numbers))
    return torch.from_numpy(numbers).reshape(-1, 1)


def _classes(column: Column, decimal: Mark) -> tuple[Tensor, int]:
    """A classification's targets [N] and how many classes there are; those that are numbers in order of size."""
    labels = [word(cell, decimal) for cell in column.cells]
    _refuse_gaps(column, np.array([label == "" for label in labels]))
    classes = sorted(set(labels), key=_in_order)
    if len(classes) < 2:
        raise column.error(f"holds {len(classes)} different classes; there is nothing to tell apart")
    if len(classes) > MOST_WORDS:
        words = any(_in_order(label)[0] for label in classes)
        cure = "choose another --target, or join rare ones" if words else "use --kind regression for numbers"
        raise column.error(f"holds {len(classes)} different classes; at most {MOST_WORDS} can be learned, so {cure}")
    place = {label: index for index, label in enumerate(classes)}
    return torch.tensor([place[label] for label in labels]), len(classes)


def _in_order(label: str) -> tuple[bool, float, str]:
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label


def _weights(column: Column, decimals: dict[str, Mark]) -> Tensor:
    """Sample weights [N] in float64: numbers of 0 and more, without gaps."""
    weights = read_numbers(column, decimals[column.name])
    _refuse_gaps(column, np.isnan(weights))
    if (weights < 0).any():
        place = int(np.flatnonzero(weights < 0)[0])
        raise column.error(f"line {column.lines[place]} holds {column.cells[place]!r}; weights are 0 or more")
    return torch.from_numpy(weights)


def _refuse_gaps(column: Column, gaps: NDArray[np.bool_]) -> None:
    if gaps.any():
        line = column.lines[int(np.flatnonzero(gaps)[0])]
        raise column.error(
            f"{gaps.sum()} rows have no value here, the first in line {line}; remove them or fill them in"
        )


def _weighed(parts: Parts) -> Parts:
    """The same parts with weights of mean 1 over the training part, in float32."""
    train = parts["train"].weights
    if train is None:
        return parts
    found: Parts = {}
    for name, part in parts.items():
        assert part.weights is not None
        if not part.weights.sum() > 0:
            raise TaskError(f"the weights of all {name} samples are 0; give more samples a weight", field="--weights")
        found[name] = replace(part, weights=(part.weights / train.mean()).float())
    return found


def _standardised(parts: Parts) -> Parts:
    """The same parts with targets of mean 0 and spread 1 over the training part, in float32 from then on."""
    train = parts["train"].targets
    # So that squares neither vanish nor overflow; a power of two, by which nothing is rounded.
    scale = 2.0 ** math.frexp(train.abs().max().item())[1]
    mean, spread = (train / scale).mean(), (train / scale).std()
    if not (train.min() < train.max() and spread > 0):
        raise TaskError("the target is the same in all training rows; there is nothing to predict", field="--target")
    return {
        name: replace(part, targets=((part.targets / scale - mean) / spread).float()) for name, part in parts.items()
    }
