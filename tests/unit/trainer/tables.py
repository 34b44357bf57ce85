"""Tables for tests: a linear truth in text cells, written in any dialect, and how well it was read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.lab.tasks import Reading, Request, Split, Task, load_task

ROWS = 120
GENERATOR = np.random.default_rng(0)
A, B = 10 * GENERATOR.standard_normal((2, ROWS)).round(3)
Y = 3 * A - 2 * B + 5
TRUTH = [[f"{a:.3f}", f"{b:.3f}", f"{y:.3f}"] for a, b, y in zip(A, B, Y, strict=True)]
"""Cells of the columns a, b and y, of which y is a linear function of the others."""
ORDER = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0)).tolist()
TRAIN, OTHERS = ORDER[: ROWS - 14 - 14 - 24], ORDER[ROWS - 14 - 14 - 24 :]
"""The rows that seed 0 puts into the training part, and the others."""


def write(
    folder: Path, rows: Sequence[Sequence[str]], header: str = "a,b,y", separator: str = ",", encoding: str = "utf-8"
) -> str:
    """Write a table and name it as a task."""
    file = folder / "table.csv"
    quoted = [[f'"{cell}"' if separator in cell else cell for cell in row] for row in [header.split(","), *rows]]
    file.write_bytes("".join(separator.join(row) + "\n" for row in quoted).encode(encoding))
    return f"csv:{file}"


def read(name: str, *, kind: Any = "regression", fraction: float = 1.0, target: Any = "y", **reading: Any) -> Task:
    """Load a table as the command line would, with seed 0."""
    return load_task(Request(name, target=target, kind=kind, reading=Reading(**reading), fraction=fraction), seed=0)


def load(folder: Path, rows: Sequence[Sequence[str]], **options: Any) -> Task:
    """Write and read a table of the columns a, b and y."""
    return read(write(folder, rows), **options)


def changed(cell: str, row: int = 15) -> list[list[str]]:
    """The true cells with another in column a; row 15 is line 17 of the file."""
    rows = [list(row) for row in TRUTH]
    rows[row][0] = cell
    return rows


def fit_error(task: Task) -> float:
    """Mean squared test error of a linear fit to the training part: about 0 if the cells were read as they are."""

    def with_ones(split: Split) -> torch.Tensor:
        return torch.cat([split.inputs, torch.ones(len(split), 1)], dim=1).double()

    fitted = torch.linalg.lstsq(with_ones(task.train), task.train.targets.double(), driver="gelsd").solution
    return (with_ones(task.test) @ fitted - task.test.targets).square().mean().item()
