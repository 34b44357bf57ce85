"""Decides what each column holds, numbers, times or words, and names the cell that speaks against what most say."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

from trainer.errors import TaskError
from trainer.lab.tables.numerals import NO_VALUE, Number, read_number
from trainer.lab.tables.reading import Column, Mark
from trainer.lab.tables.times import AmbiguousError, read_times

Numbers = NDArray[np.float64]
Words = list[str]
MOST_ODD = 0.1
"""A column in which fewer cells than this share are odd is meant as numbers (or times)."""
MANY_VALUES = 20
"""So is one with more different numbers than this, if more than half of its cells are numbers."""
TOTALS = frozenset({"total", "totals", "grand total", "subtotal", "sum", "average", "mean", "gesamt", "summe"})
OTHER_MARK: dict[Mark, Mark] = {".": ",", ",": "."}


def decimal_marks(columns: Mapping[str, Column], told: Mark | None) -> dict[str, Mark]:
    """The decimal mark of each column: the one told, or the one by which more of its cells are numbers.

    Where both do alike (`12`, `1,234`), it is a comma if other columns have it and none has a point; else a point.
    """
    if told is not None:
        return dict.fromkeys(columns, told)
    found: dict[str, Mark | None] = {name: _evident_mark(column.cells) for name, column in columns.items()}
    whole: Mark = "," if set(found.values()) - {None} == {","} else "."
    return {name: mark or whole for name, mark in found.items()}


def read_column(column: Column, decimal: Mark, *, as_words: bool = False) -> Numbers | Words:
    """The column's values [N], as numbers (NaN: missing; times in seconds), or as words ("" for missing).

    Raises TaskError naming the first odd cell where nearly all others are numbers or times.
    """
    if not as_words:
        numbers = [read_number(cell, decimal) for cell in column.cells]
        if _are_meant(numbers):
            _check_numbers(column, numbers, decimal)
            return np.array([number.value for number in numbers if number is not None])
        if (times := _times(column)) is not None:
            return times
    return [word(cell, decimal) for cell in column.cells]


def read_numbers(column: Column, decimal: Mark) -> Numbers:
    """A column that has to hold numbers (or times); TaskError names the first cell that is none."""
    values = read_column(column, decimal)
    if isinstance(values, list):
        place = next(place for place, cell in enumerate(column.cells) if read_number(cell, decimal) is None)
        raise column.error(
            f"{column.cells[place]!r} is not a number (line {column.lines[place]}); a target of words needs "
            f"--kind classification, one with decimal {_spoken(OTHER_MARK[decimal])} --decimal {OTHER_MARK[decimal]!r}"
        )
    return values


def word(cell: str, decimal: Mark) -> str:
    """A cell as a word: numbers in one spelling, so that `1` and `1.0` are the same; "" if it stands for no value."""
    if cell.lower() in NO_VALUE:
        return ""
    number = read_number(cell, decimal)
    if number is None or number.mark or number.numeral == "nan" or cell.startswith("("):
        return cell
    return _canonical(number.numeral)


def _canonical(numeral: str) -> str:
    """One spelling for all numerals of the same number, exact to a thousand digits."""
    value = Decimal(numeral).normalize(Context(prec=1000))
    if not value:
        return "0"
    return format(value, "f") if abs(value.adjusted()) < 1000 else str(value)


def refuse_totals(columns: Iterable[Column]) -> None:
    """Raise TaskError if the last row looks like totals: in some column it alone says so."""
    for column in columns:
        last = column.cells[-1]
        if last.lower().rstrip(":") in TOTALS and last not in column.cells[:-1]:
            raise column.error(f"line {column.lines[-1]} holds {last!r} and seems to be a row of totals; remove it")


# --- what most cells say ----------------------------------------------------------------------------------------------


def _evident_mark(cells: Sequence[str]) -> Mark | None:
    if not any("." in cell or "," in cell for cell in cells):
        return None
    numbers: dict[Mark, list[Number | None]] = {
        mark: [read_number(cell, mark) for cell in cells] for mark in OTHER_MARK
    }
    point, comma = (sum(number is not None for number in numbers[mark]) for mark in OTHER_MARK)
    better: Mark = "," if comma > point else "."
    return better if comma != point and _are_meant(numbers[better]) else None


def _are_meant(numbers: Sequence[Number | None]) -> bool:
    """Whether a column's cells are meant as numbers; None stands for a cell that is none."""
    odd = sum(number is None for number in numbers)
    known = [number for number in numbers if number is not None and number.numeral != "nan"]
    if not known:
        return False
    if odd <= MOST_ODD * (odd + len(known)):
        return True
    return odd < len(known) and len({number.numeral for number in known}) > MANY_VALUES


def _times(column: Column) -> Numbers | None:
    """The column as times, or None if it holds none, or only a few."""
    try:
        values, fit = read_times(column.cells)
    except AmbiguousError:
        raise column.error(
            "has dates that can be read with the day or the month first; write them as 2026-11-26, or use "
            f"{_drop(column)}"
        ) from None
    odd, known = int((~fit).sum()), int(np.isfinite(values).sum())
    if not known or odd > MOST_ODD * (odd + known):
        return None
    if odd:
        place = int(np.flatnonzero(~fit)[0])
        raise _odd(column, place, f"{known} of {known + odd} cells are dates or times of one form")
    return values


# --- the odd cell -----------------------------------------------------------------------------------------------------


def _check_numbers(column: Column, numbers: Sequence[Number | None], decimal: Mark) -> None:
    """Raise TaskError for the first cell that is no number, or whose unit differs from that of most others."""
    odd = [place for place, number in enumerate(numbers) if number is None]
    if odd:
        known = sum(number is not None and number.numeral != "nan" for number in numbers)
        other = OTHER_MARK[decimal]
        as_other = read_number(column.cells[odd[0]], other) is not None
        hint = f", use --decimal {other!r}" if as_other else ""
        raise _odd(column, odd[0], f"{known} of {known + len(odd)} cells are numbers", hint)
    marks = [_unit(number) for number in numbers if number is not None]
    units = Counter(mark for mark in marks if mark is not None)
    currencies = [unit for unit in units if unit not in ("", "%")]
    if len(currencies) > 1 or (units["%"] and len(units) > 1):
        rare = min(units, key=lambda unit: (units[unit], unit != "%"))
        raise _odd(column, marks.index(rare), "most other cells have another unit or none")


def _unit(number: Number) -> str | None:
    """A number's mark; None for zero and missing ones, which are the same in every unit."""
    return number.mark if abs(number.value) > 0 else None


def _odd(column: Column, place: int, but: str, hint: str = "") -> TaskError:
    """The one clear error: column, line, value and cure."""
    return column.error(
        f"line {column.lines[place]} holds {column.cells[place]!r}, but {but}; clean the cell{hint}, leave the column "
        f"out with {_drop(column)}, or take it as words with --words {_quoted(column.name)}"
    )


def _drop(column: Column) -> str:
    return f"--drop {_quoted(column.name)}"


def _quoted(name: str) -> str:
    return name if name.isidentifier() else repr(name)


def _spoken(mark: Mark) -> str:
    return "commas" if mark == "," else "points"
