"""Adult and California housing in the files in which they are shared, read like any other table."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from trainer.errors import TaskError
from trainer.lab.tables.columns import decimal_marks
from trainer.lab.tables.features import encode
from trainer.lab.tables.reading import Column, Reading
from trainer.lab.tasks.base import Shares, Split, SplitName, Task, fraction_of, split
from trainer.lab.tasks.table import table, table_task

ADULT_COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)
"""In the order of adult.names; the files have no header."""
INCOMES = ("<=50K", ">50K")


def adult(seed: int, data_dir: Path | None, fraction: float = 1.0, left_out: tuple[str, ...] = ()) -> Task:
    """Whether an income is above 50,000 dollars, by `adult/adult.data`; tested on the official `adult.test`.

    A `?` is a word of its own: that an occupation is unknown says something. The census weight `fnlwgt` is left out,
    and the columns `left_out`.
    """
    rows = list(_adult_rows(_file("adult", "adult.data", data_dir)))
    known = len(rows)
    rows += _adult_rows(_file("adult", "adult.test", data_dir))
    columns = {
        name: Column(name, [row[place] for _, row in rows], [line for line, _ in rows])
        for place, name in enumerate(ADULT_COLUMNS)
    }
    labels = torch.tensor([INCOMES.index(cell) for cell in columns.pop("income").cells])
    for name in ("fnlwgt", *left_out):
        del columns[name]
    whole = Split(torch.arange(len(rows)), labels)
    first, last = whole[torch.arange(known)], whole[torch.arange(known, len(rows))]
    parts = split(first, seed, Shares(), test=last)
    parts["train"] = fraction_of(parts["train"], fraction, seed)
    features = encode(columns, decimal_marks(columns, None), (), parts["train"].inputs.numpy())
    return table_task("adult", parts, features, len(INCOMES), regression=False)


def adult_sexes(seed: int, data_dir: Path | None) -> dict[SplitName, torch.Tensor]:
    """1 for a man and 0 for a woman, for the samples of each part as `adult` divides them (the whole training part)."""
    place = ADULT_COLUMNS.index("sex")
    first, last = (
        torch.tensor([int(row[place] == "Male") for _, row in _adult_rows(_file("adult", name, data_dir))])
        for name in ("adult.data", "adult.test")
    )
    parts = split(Split(first, first), seed, Shares(), test=Split(last, last))
    return {name: part.targets for name, part in parts.items()}


def california(seed: int, data_dir: Path | None, fraction: float = 1.0) -> Task:
    """The median house value of a block by `california-housing/housing.csv`."""
    path = _file("california-housing", "housing.csv", data_dir)
    found = table(path, "median_house_value", "regression", seed, Reading(), fraction)
    return replace(found, name="california-housing")


def _file(folder: str, file: str, data_dir: Path | None) -> Path:
    """A file of the data folder; TaskError if it is missing."""
    if data_dir is None:
        raise TaskError(f"set GDSOLVER_DATA to a folder that holds {folder}/{file}", field=folder)
    path = data_dir / folder / file
    if not path.is_file():
        raise TaskError(f"{path} is missing; the folder needs the official files", field="GDSOLVER_DATA")
    return path


def _adult_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells; in adult.test the first line is a remark and every label ends in a full stop."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.rstrip(". \n").split(",")]
        if len(cells) != len(ADULT_COLUMNS) or cells[-1] not in INCOMES:
            raise TaskError(
                f"{path}, line {number} has no {len(ADULT_COLUMNS)} cells with an income last", field="data"
            )
        yield number, cells
