"""Decides what each column holds, numbers, times or words, and names the cell that speaks against what most say."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.errors import TaskError
from trainer.lab.tables.numerals import MISSING, NO_VALUE, Number, read_number
from trainer.lab.tables.reading import Column, Mark
from trainer.lab.tables.times import AmbiguousError, read_times

Numbers = NDArray[np.float64]
Words = list[str]
MOST_ODD = 0.1
"""A column in which fewer cells than this share are odd is meant as numbers (or times)."""
MANY_VALUES = 20
"""So is one with more different numbers than this, if more than half of its cells are numbers."""
PROBE = 1000
"""About so many cells of a column are searched for a proof of its decimal mark."""
TOTALS = frozenset({"total", "totals", "grand total", "subtotal", "sum", "average", "mean", "gesamt", "summe"})
OTHER_MARK: dict[Mark, Mark] = {".": ",", ",": "."}
AFTER_ZERO = re.compile(r"[^0-9.,]*0[0-9]{0,2}[.,][0-9]{3}(?:[^0-9.,].*)?")
"""A number that would be thousands, but for the zero that it begins with."""


def decimal_marks(columns: Mapping[str, Column], told: Mark | None) -> dict[str, Mark]:
    """The decimal mark of each column: the one told, or the one that its cells, else those of the table, prove.

    `1,5` proves a comma, `1.5` and `1,234.5` a point; `12` and `1,234` prove nothing. A column has a mark of its own
    if more than half of its cells with any mark prove it, or if no other stands in it and one cell is like `0,125`.
    Raises TaskError where a few cells prove a comma, and nothing proves anything else.
    """
    if told is not None:
        return dict.fromkeys(columns, told)
    proofs = {name: _proofs(column) for name, column in columns.items()}
    points = sum(len(proof.sure["."]) for proof in proofs.values())
    commas = sum(len(proof.sure[","]) for proof in proofs.values())
    marked = sum(proof.marked for proof in proofs.values())
    if points == 0 < commas < MOST_ODD * marked:
        name = next(name for name, proof in proofs.items() if proof.sure[","])
        raise _unclear(columns[name], proofs[name].sure[","][0])
    zeros = [proof.after_zero for proof in proofs.values() if proof.after_zero]
    whole: Mark = "," if (commas, zeros.count(",")) > (points, zeros.count(".")) else "."
    found: dict[str, Mark] = {}
    for name, proof in proofs.items():
        own: Mark = "," if len(proof.sure[","]) > len(proof.sure["."]) else "."
        if 2 * len(proof.sure[own]) > proof.marked:
            found[name] = own
        else:
            found[name] = proof.after_zero or whole
    return found


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
        other = [read_number(cell, OTHER_MARK[decimal]) for cell in column.cells]
        if _are_meant(other):
            place = next(place for place, number in enumerate(numbers) if number is None)
            raise _unclear(column, place)
    return [word(cell, decimal) for cell in column.cells]


def read_numbers(column: Column, decimal: Mark) -> Numbers:
    """A column that has to hold numbers (or times); TaskError names the first cell that is none."""
    values = read_column(column, decimal)
    if not isinstance(values, list):
        return values
    odd = [place for place, cell in enumerate(column.cells) if read_number(cell, decimal) is None]
    if not odd:  # nothing but gaps
        return np.full(len(values), math.nan)
    raise column.error(
        f"{column.cells[odd[0]]!r} is not a number (line {column.lines[odd[0]]}); clean the cell, or use "
        "--kind classification for a target of words"
    )


def word(cell: str, decimal: Mark) -> str:
    """A cell as a word: numbers in one spelling, so that `1` and `1.0` are the same; "" if it stands for no value."""
    if cell.lower() in NO_VALUE:
        return ""
    number = read_number(cell, decimal)
    if number is None or number.mark or number.numeral == "nan" or cell.startswith("("):
        return cell
    return _canonical(number.numeral) or cell


def _canonical(numeral: str) -> str | None:
    """One spelling for all numerals of the same number, exact to the last digit; None for one beyond float64.

    That is how identifiers of hexadecimal digits look that have one `e` among them.
    """
    size, _, exponent = numeral.partition("e")
    if not float(size):
        return "0" if len(exponent) < 4 else None
    if not 0 < abs(float(numeral)) < math.inf:
        return None
    return format(Decimal(numeral).normalize(Context(prec=len(numeral))), "f")


def refuse_totals(columns: Iterable[Column]) -> None:
    """Raise TaskError if the last row looks like totals: in some column it alone says so."""
    for column in columns:
        last = column.cells[-1]
        if last.lower().rstrip(":") in TOTALS and last not in column.cells[:-1]:
            raise column.error(f"line {column.lines[-1]} holds {last!r} and seems to be a row of totals; remove it")


# --- what most cells say ----------------------------------------------------------------------------------------------


class _Proofs(NamedTuple):
    """What a column's cells say of its decimal mark."""

    sure: dict[Mark, list[int]]
    """The places of cells that are a number with one mark alone, by that mark."""
    after_zero: Mark | None
    """The mark behind a zero, as in `0,125`, where the column has no other one."""
    marked: int
    """How many cells that are numbers have a mark."""


def _proofs(column: Column) -> _Proofs:
    """What a column's cells say of its decimal mark."""
    sure: dict[Mark, list[int]] = {".": [], ",": []}
    zeros: set[Mark] = set()
    there: set[str] = set()
    marked = 0
    for place in _probed(column):
        cell = column.cells[place]
        if "." in cell or "," in cell:
            fitting = [mark for mark in OTHER_MARK if (number := read_number(cell, mark)) and number is not MISSING]
            marked += bool(fitting)
            there |= {mark for mark in OTHER_MARK if fitting and mark in cell}
            if len(fitting) == 1:
                if AFTER_ZERO.fullmatch(cell):
                    zeros.add(fitting[0])
                else:
                    sure[fitting[0]].append(place)
    alone = next(iter(zeros)) if zeros and zeros == there else None
    return _Proofs(sure, None if alone and sure[OTHER_MARK[alone]] else alone, marked)


def _probed(column: Column) -> range:
    """Places of some cells, from the first to the last, by which the decimal mark is found."""
    return range(0, len(column.cells), max(1, len(column.cells) // PROBE))


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
        cure = f", or use {_drop(column)}" if column.optional else ""
        raise column.error(
            f"has dates that can be read with the day or the month first; write them as 2026-11-26{cure}"
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
        as_other = all(read_number(cell, other) is not None for cell in column.cells)
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
    cure = ""
    if column.optional:
        cure = f", leave the column out with {_drop(column)}, or take it as words with --words {_quoted(column.name)}"
    return column.error(
        f"line {column.lines[place]} holds {column.cells[place]!r}, but {but}; clean the cell{hint}{cure}"
    )


def _unclear(column: Column, place: int) -> TaskError:
    """The one clear error where the decimal mark is not evident."""
    return column.error(
        f"line {column.lines[place]} holds {column.cells[place]!r}, and other cells look different; say how decimals "
        f"are marked with --decimal . or --decimal , or clean the cell"
    )


def _drop(column: Column) -> str:
    return f"--drop {_quoted(column.name)}"


def _quoted(name: str) -> str:
    return name if name.isidentifier() else repr(name)
