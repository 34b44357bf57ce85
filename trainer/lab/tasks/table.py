"""The user's own CSV table as a task: numbers standardised, words one-hot encoded, gaps filled, nothing guessed."""

import csv
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shared.snapshot import Task as Kind
from trainer.errors import TaskError
from trainer.lab.tasks.base import Defaults, Shares, Split, SplitName, Task, Tunnel, split

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
MOST_WORDS = 100
"""A text column with more different words than this is an identifier, not a feature."""
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
Column = list[str]


def table(path: Path, target: str | None, kind: Kind | None, seed: int) -> Task:
    """A CSV file with a header line; `target` names the column to predict, every other column is an input.

    A column of numbers is standardised, with gaps filled by the mean, both taken from the training part alone; any
    other is one-hot encoded, a gap being a word of its own. Rows without a target are refused. Raises TaskError, which
    names the option, file or column and the cure.
    """
    columns = _read(path)
    if target is None:
        raise TaskError(f"name the column to predict; {path.name} has: {', '.join(columns)}", field="--target")
    if target not in columns:
        hint = "; is it separated by something other than commas?" if len(columns) == 1 else ""
        raise TaskError(f"{path.name} has no column {target!r}; it has: {', '.join(columns)}{hint}", field="--target")
    if kind not in ("classification", "regression"):
        raise TaskError("say classification or regression", field="--kind")
    labels = columns.pop(target)
    if not columns:
        raise TaskError(f"{path.name} has no column besides the target", field=str(path))
    targets, width = _targets(target, labels, kind)
    rows = torch.arange(len(labels))
    parts = split(Split(rows, targets), seed, Shares())
    return _task(path, kind, parts, _features(columns, parts["train"].inputs.numpy()), width)


def _task(path: Path, kind: Kind, rows: dict[SplitName, Split], features: NDArray[np.float32], width: int) -> Task:
    """Put features in the place of row numbers; regression targets are standardised by the training part."""
    inputs = torch.from_numpy(features)
    parts = {name: Split(inputs[part.inputs], part.targets) for name, part in rows.items()}
    if kind == "regression":
        mean, spread = parts["train"].targets.mean(), parts["train"].targets.std().clamp_min(1e-12)
        parts = {name: Split(part.inputs, (part.targets - mean) / spread) for name, part in parts.items()}
    wide = inputs.shape[1]
    return Task(
        name=f"csv:{path.name}",
        kind=kind,
        **parts,
        model=lambda: nn.Sequential(nn.Linear(wide, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width)),
        defaults=CLASSES if kind == "classification" else NUMBERS,
        tunnel=Tunnel("ramp") if kind == "classification" else Tunnel("mse", time_s=2.0, samples=5000),
    )


def _read(path: Path) -> dict[str, Column]:
    """The columns by name, each as text; refuses ragged rows, duplicate names and empty files."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
    except FileNotFoundError as error:
        raise TaskError("no such file", field=f"csv:{path}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"cannot be read as UTF-8 CSV: {error}", field=f"csv:{path}") from error
    if len(rows) < 2:
        raise TaskError("needs a header line and rows below it", field=f"csv:{path}")
    header = [name.strip() for name in rows[0]]
    for name in header:
        if header.count(name) > 1:
            raise TaskError(
                f"column {name!r} is there {header.count(name)} times; rename all but one", field=f"csv:{path}"
            )
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise TaskError(f"row {number} has {len(row)} fields, the header {len(header)}", field=f"csv:{path}")
    return {name: [row[place].strip() for row in rows[1:]] for place, name in enumerate(header)}


def _targets(name: str, labels: Column, kind: Kind) -> tuple[torch.Tensor, int]:
    """Targets as a tensor, and the width of the output layer."""
    gaps = sum(_is_missing(label) for label in labels)
    if gaps:
        raise TaskError(f"{gaps} rows have no value here; remove them or fill them in", field=f"column {name!r}")
    if kind == "regression":
        numbers = _numbers(labels)
        if numbers is None:
            odd = next(label for label in labels if _number(label) is None)
            raise TaskError(f"{odd!r} is not a number; use --kind classification for words", field=f"column {name!r}")
        return torch.from_numpy(numbers.astype(np.float32)).reshape(-1, 1), 1
    classes = sorted(set(labels))
    if not 2 <= len(classes) <= MOST_WORDS:
        cure = "use --kind regression for numbers" if len(classes) > MOST_WORDS else "there is nothing to tell apart"
        raise TaskError(f"holds {len(classes)} different classes; {cure}", field=f"column {name!r}")
    place = {label: index for index, label in enumerate(classes)}
    return torch.tensor([place[label] for label in labels]), len(classes)


def _features(columns: dict[str, Column], train: NDArray[np.int64]) -> NDArray[np.float32]:
    """All inputs as one matrix [N, d]; every statistic comes from the training rows."""
    return np.hstack([_encoded(name, values, train) for name, values in columns.items()]).astype(np.float32)


def _encoded(name: str, column: Column, train: NDArray[np.int64]) -> NDArray[np.float64]:
    numbers = _numbers(column)
    if numbers is not None:
        known = numbers[train][np.isfinite(numbers[train])]
        mean, spread = (known.mean(), known.std()) if len(known) else (0.0, 0.0)
        filled = np.where(np.isnan(numbers), mean, numbers)
        return ((filled - mean) / (spread or 1.0)).reshape(-1, 1)
    words = ["" if _is_missing(value) else value for value in column]
    known_words = sorted({words[row] for row in train})
    if len(known_words) > MOST_WORDS:
        raise TaskError(
            f"holds {len(known_words)} different words, too many to one-hot encode; remove the column",
            field=f"column {name!r}",
        )
    return np.array([[float(value == word) for word in known_words] for value in words])


def _numbers(column: Column) -> NDArray[np.float64] | None:
    """The column as numbers with NaN for gaps, or None if it holds words (or nothing but gaps)."""
    parsed = [math.nan if _is_missing(value) else _number(value) for value in column]
    numbers = [value for value in parsed if value is not None]
    if len(numbers) < len(parsed) or all(map(math.isnan, numbers)):
        return None
    return np.array(numbers)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_missing(text: str) -> bool:
    return text.lower() in MISSING
