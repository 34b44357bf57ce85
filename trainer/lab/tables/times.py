"""Reads dates and times of day as numbers, in double precision: single precision knows a date of today to 2 minutes."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainer.lab.tables.numerals import NO_NUMBER

Parse = Callable[[str], float | None]
DATES = ("%Y/%m/%d", "%d.%m.%Y", "%d.%m.%y", "%Y-%m")
DAY_FIRST = ("%d/%m/%Y", "%d-%m-%Y", "%d/%m/%y")
MONTH_FIRST = ("%m/%d/%Y", "%m-%d-%Y", "%m/%d/%y")
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
PROBE = 50
"""Cells by which a form is chosen to be tried on all."""


def read_times(cells: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Seconds since 1970 (UTC where no zone is given) of the cells [N], or since midnight, NaN where there is none.

    Also says which cells fit. All are read in one form, the one that fits most: ISO 8601, day or month first, a time
    of day. Raises AmbiguousError if day first and month first fit equally well and mean different times.
    """
    known = [cell for cell in cells if cell.lower() not in NO_NUMBER]
    probe = known[:: max(1, len(known) // PROBE)]
    best = max(FORMS, key=lambda form: _fits(form, probe)) if any(cell[0].isdigit() for cell in probe) else None
    if best is None or 2 * _fits(best, probe) < len(probe):
        return np.full(len(cells), math.nan), np.array([cell.lower() in NO_NUMBER for cell in cells], bool)
    readings = [_read(form, cells) for form in FORMS if _fits(form, probe) == _fits(best, probe)]
    most = max(fits.sum() for _, fits in readings)
    (values, fits), *others = [reading for reading in readings if reading[1].sum() == most]
    if any(not np.array_equal(values, other, equal_nan=True) for other, _ in others):
        raise AmbiguousError
    return values, fits


class AmbiguousError(ValueError):
    """The dates of a column can be read with the day first and with the month first."""


def _fits(form: Parse, cells: Sequence[str]) -> int:
    return sum(form(cell) is not None for cell in cells)


def _read(form: Parse, cells: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    parsed = [math.nan if cell.lower() in NO_NUMBER else form(cell) for cell in cells]
    values = np.array([math.nan if value is None else value for value in parsed], np.float64)
    return values, np.array([value is not None for value in parsed], bool)


def _iso(text: str) -> float | None:
    """A date with hyphens, and what may follow it."""
    if text[4:5] != "-":
        return None
    try:
        return _seconds(datetime.fromisoformat(text))
    except ValueError:
        return None


def _formatted(form: str, text: str) -> float | None:
    try:
        return _seconds(datetime.strptime(text, form))
    except ValueError:
        return None


def _clock(form: str, text: str) -> float | None:
    try:
        time = datetime.strptime(text, form)
    except ValueError:
        return None
    return time.hour * 3600.0 + time.minute * 60.0 + time.second + time.microsecond / 1e6


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


FORMS: tuple[Parse, ...] = (
    _iso,
    *(partial(_formatted, date + clock) for date in (*DATES, *DAY_FIRST, *MONTH_FIRST) for clock in CLOCKS),
    *(partial(_clock, clock.strip()) for clock in CLOCKS if clock),
)
