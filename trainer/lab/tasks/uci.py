"""The UCI regressions in the layout in which papers share them: a matrix of numbers, and which columns are what."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.errors import TaskError
from trainer.lab.tables.features import standardise
from trainer.lab.tasks.base import Shares, Split, Task, fraction_of, split
from trainer.lab.tasks.table import table_task


def uci(name: str, seed: int, data_dir: Path | None, fraction: float = 1.0) -> Task:
    """The regression in `uci/NAME/` of the data folder: data.txt, index_features.txt and index_target.txt.

    Treated like a CSV table: all is standardised by the training rows. Raises TaskError for what is missing.
    """
    if data_dir is None:
        raise TaskError("set GDSOLVER_DATA to a folder that holds uci/NAME/data.txt", field=f"uci:{name}")
    folder = data_dir / "uci" / name
    if not folder.is_dir():
        there = sorted(path.name for path in (data_dir / "uci").glob("*") if path.is_dir())
        raise TaskError(f"there is no folder {folder}; there are: {', '.join(there) or 'none'}", field=f"uci:{name}")
    data = _matrix(folder, "data.txt")
    inputs, target = (_places(folder, f"index_{part}.txt", data.shape[1]) for part in ("features", "target"))
    rows = Split(torch.arange(len(data)), torch.from_numpy(data[:, target]))
    parts = split(rows, seed, Shares())
    parts["train"] = fraction_of(parts["train"], fraction, seed)
    train = parts["train"].inputs.numpy()
    features = np.hstack([standardise(data[:, place], train) for place in inputs]).astype(np.float32)
    return table_task(f"uci:{name}", parts, features, len(target), regression=True)


def _matrix(folder: Path, file: str) -> NDArray[np.float64]:
    """A file of numbers separated by blanks [rows, columns], which may be gzipped."""
    path = next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)
    if path is None:
        raise TaskError(f"{folder / file} is missing", field="GDSOLVER_DATA")
    try:
        matrix = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} is not a table of numbers: {error}", field="data") from error
    if not np.isfinite(matrix).all():
        raise TaskError(f"{path} has values that are not finite; remove those rows", field="data")
    return matrix


def _places(folder: Path, file: str, width: int) -> NDArray[np.int64]:
    """Places of columns, from 0."""
    places = _matrix(folder, file).ravel().astype(np.int64)
    if not len(places) or places.min() < 0 or places.max() >= width:
        raise TaskError(f"{folder / file} names columns that data.txt does not have ({width})", field="data")
    return places
