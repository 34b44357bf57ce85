"""Cells of tables: numbers are read as a person would, and what cannot be read so is one error that names the cell."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.tables import GENERATOR, ROWS, TRAIN, TRUTH, A, B, Y, changed, fit_error, load
from trainer.errors import TaskError
from trainer.lab.tables.columns import word
from trainer.lab.tables.numerals import read_number
from trainer.lab.tables.reading import Mark
from trainer.lab.tables.times import AmbiguousError, read_times

# --- the rule for numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "decimal", "value"),
    [
        ("12", ".", 12),
        ("-1.5e-3", ".", -0.0015),
        ("\u22125", ".", -5),
        (".5", ".", 0.5),
        ("1,234,567.5", ".", 1234567.5),
        ("1 234 567", ".", 1234567),
        ("1\u202f234,5", ",", 1234.5),
        ("1.234,5", ",", 1234.5),
        ("1'234.5", ".", 1234.5),
        ("$1,234.50", ".", 1234.5),
        ("-$ 5", ".", -5),
        ("1.234,50 €", ",", 1234.5),
        ("(1,234)", ".", -1234),
        ("12.5 %", ".", 0.125),
        ("1E+05", ".", 1e5),
    ],
)
def test_numbers_as_people_write_them(cell: str, decimal: Mark, value: float) -> None:
    """Groups of thousands, signs, exponents, currencies, percent, parentheses for minus."""
    number = read_number(cell, decimal)
    assert number is not None
    assert number.value == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "cell", ["", "?", "NA", "n/a", "NaN", "-", "Infinity", "-inf", "#DIV/0!", "None", "1e999", "-1.8e308"]
)
def test_cells_that_stand_for_no_number(cell: str) -> None:
    """Empty cells, their usual words, infinities, and what is beyond the range of float32 are missing."""
    number = read_number(cell, ".")
    assert number is not None
    assert math.isnan(number.value)


@pytest.mark.parametrize(
    "cell",
    [
        "$",
        "%",
        "1_000",
        "0x10",
        "12,34",
        "1,23,4",
        "1.2.3",
        "--5",
        "5 kg",
        "€5%",
        "(5",
        "e5",
        "0,125",
        "-0,125",
        "00,125",
        "012,345",
    ],
)
def test_cells_that_are_no_numbers(cell: str) -> None:
    """Units of their own, wrong groups, and what only a programming language would take."""
    assert read_number(cell, ".") is None


@given(st.floats(min_value=-3e38, max_value=3e38), st.sampled_from([".", ","]))
def test_every_float_survives_its_spelling(value: float, decimal: Mark) -> None:
    """Whatever Python writes is read as it is, with either decimal mark."""
    number = read_number(repr(value).replace(".", decimal), decimal)
    assert number is not None
    assert number.value == value


LOOKS_LIKE_A_NUMBER = st.from_regex(r"[-+(]?[0-9]{0,12}[.,]?[0-9]{0,3}([eE][-+]?[0-9]{1,25})?[%)]?", fullmatch=True)


@given(st.text(max_size=12) | LOOKS_LIKE_A_NUMBER, st.sampled_from([".", ","]))
def test_no_text_is_too_odd(text: str, decimal: Mark) -> None:
    """Whatever a cell holds, it is a number, missing, or a word, and never an exception."""
    number = read_number(text.strip(), decimal)
    assert number is None or isinstance(number.value, float)
    assert isinstance(word(text.strip(), decimal), str)


def test_numbers_have_one_spelling_as_words() -> None:
    """`1`, `1.0` and `1e0` are one word; long identifiers stay apart; other words stay as they are."""
    assert {word(cell, ".") for cell in ("1", "1.0", "01", "1e0", "+1")} == {"1"}
    assert {word(cell, ".") for cell in ("0", "-0", "0.00")} == {"0"}
    assert word("12345678901234567890123456789012345", ".") != word("12345678901234567890123456789012346", ".")
    assert [word(cell, ".") for cell in ("red", "-", "none", "5%", "n/a")] == ["red", "-", "none", "5%", ""]


@pytest.mark.parametrize(
    "cell",
    ["12e45678912", "1e99999999999999999999", "1e-99999999999999999999", "0e99999999999999999999", "7e-400", "1e400"],
)
def test_identifiers_that_read_like_numbers_out_of_range_stay_as_they_are(cell: str) -> None:
    """Hexadecimal ids have an `e` among their digits; none of them is folded into another, or an error."""
    assert word(cell, ".") == cell


def test_long_numbers_are_one_word_to_their_last_digit() -> None:
    """However many digits there are, another one at the end makes another word."""
    assert word(f"0.{'1' * 1500}2", ".") != word(f"0.{'1' * 1500}3", ".")


def test_a_column_of_hexadecimal_ids_is_one_of_words(tmp_path: Path) -> None:
    """As a column to learn from and as classes."""
    rows = [["12e45678912" if i % 2 else f"ab{i % 3}", *row[1:]] for i, row in enumerate(TRUTH)]
    assert load(tmp_path, rows).train.inputs.shape[1] == 5
    assert load(tmp_path, rows, target="a", kind="classification").outputs == 4


# --- one odd cell -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["Infinity", "-", "n/a", "", "#DIV/0!"])
def test_a_gap_does_not_turn_a_column_into_words(tmp_path: Path, cell: str) -> None:
    """The column stays one of numbers, with the gap filled and marked."""
    task = load(tmp_path, changed(cell, row=TRAIN[0]))
    assert task.train.inputs.shape[1] == 3
    assert fit_error(task) < 1e-6


@pytest.mark.parametrize("cell", ["$", "%", "abc", "5 kg", "50%", "1;5"])
def test_an_odd_cell_is_named(tmp_path: Path, cell: str) -> None:
    """Column, line, value and cure in one error, where nearly all of the column is numbers."""
    named = rf"column 'a': line 17 holds '{re.escape(cell)}'.*clean the cell.*--drop a.*--words a"
    with pytest.raises(TaskError, match=named):
        load(tmp_path, changed(cell))


def test_repeated_words_in_a_column_of_numbers_are_named(tmp_path: Path) -> None:
    """A fifth of the cells are `unknown`; the others have many different values, so the column is one of numbers."""
    rows = [["unknown" if i % 5 == 0 else row[0], *row[1:]] for i, row in enumerate(TRUTH)]
    with pytest.raises(TaskError, match="line 2 holds 'unknown', but 96 of 120 cells are numbers"):
        load(tmp_path, rows)


def test_a_row_of_totals_is_named(tmp_path: Path) -> None:
    """In a column of numbers as in one of words: its sums would be one sample like any other."""
    sums = ["Total", f"{B.sum():.3f}", f"{Y.sum():.3f}"]
    with pytest.raises(TaskError, match=r"line 122 holds 'Total'.*row of totals; remove it"):
        load(tmp_path, [*TRUTH, sums])
    with pytest.raises(TaskError, match="row of totals"):
        load(tmp_path, [*[["ab"[i % 2], *row[1:]] for i, row in enumerate(TRUTH)], sums])


def test_one_currency_is_no_mark_and_two_are(tmp_path: Path) -> None:
    """`$5` among plain numbers is 5; dollars and euros in one column cannot be compared."""
    assert fit_error(load(tmp_path, changed(f"${A[15]:.3f}"))) < 1e-6
    rows = [[f"${row[0]}", *row[1:]] for row in TRUTH]
    assert fit_error(load(tmp_path, rows)) < 1e-6
    rows[15][0] = "€5"
    with pytest.raises(TaskError, match="line 17 holds '€5', but most other cells have another unit"):
        load(tmp_path, rows)


def test_an_odd_column_can_be_dropped_or_taken_as_words(tmp_path: Path) -> None:
    """The cures that the error names work."""
    rows = [[str(i % 4), *row[1:]] for i, row in enumerate(TRUTH)]
    rows[TRAIN[0]][0] = "other"
    assert load(tmp_path, rows, drop=("a",)).train.inputs.shape[1] == 1
    assert load(tmp_path, rows, words=("a",)).train.inputs.shape[1] == 6
    with pytest.raises(TaskError, match=r"--drop: table\.csv has no column 'c'; it has: a, b, y"):
        load(tmp_path, rows, drop=("c",))


def test_words_that_contain_numbers_stay_words(tmp_path: Path) -> None:
    """`2`, `3`, `4`, `5more` are four words: too few different numbers, and too many others."""
    rows = [[("2", "3", "4", "5more")[i % 4], *row[1:]] for i, row in enumerate(TRUTH)]
    assert load(tmp_path, rows).train.inputs.shape[1] == 5


# --- times ------------------------------------------------------------------------------------------------------------

SECONDS = np.sort(GENERATOR.uniform(0, 600, ROWS)).round(3)
START = datetime(2026, 11, 26, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "spell",
    [
        lambda second: f"{START.timestamp() + second:.3f}",
        lambda second: (START + timedelta(seconds=second)).isoformat(),
        lambda second: f"{START + timedelta(seconds=second):%Y-%m-%d %H:%M:%S.%f}",
        lambda second: f"{START + timedelta(seconds=second):%d.%m.%Y %H:%M:%S.%f}",
    ],
)
def test_times_keep_their_seconds(tmp_path: Path, spell: Callable[[float], str]) -> None:
    """Ten minutes of today, as time stamps or dates: in float32 they would be a handful of values."""
    rows = [[spell(second), row[1], f"{2 * second:.3f}"] for second, row in zip(SECONDS, TRUTH, strict=True)]
    task = load(tmp_path, rows)
    assert task.train.inputs.shape[1] == 2
    assert fit_error(task) < 1e-10


def test_a_target_of_time_stamps_keeps_its_seconds(tmp_path: Path) -> None:
    """Targets, too, are standardised before they become float32."""
    rows = [[f"{second:.3f}", row[1], f"{1.7e9 + second:.3f}"] for second, row in zip(SECONDS, TRUTH, strict=True)]
    assert fit_error(load(tmp_path, rows)) < 1e-10


@pytest.mark.parametrize(
    ("cells", "seconds"),
    [
        (["1970-01-02", "1970-01-03T00:00:01", ""], [86400, 172801, math.nan]),
        (["1970-01-01T01:00:00+01:00", "1970-01-01T00:00:10Z"], [0, 10]),
        (["31/01/1970", "01/02/1970"], [30 * 86400, 31 * 86400]),
        (["01/31/1970", "02/01/1970"], [30 * 86400, 31 * 86400]),
        (["1970/01/02 12:30", "n/a"], [86400 + 45000, math.nan]),
        (["00:01", "12:30"], [60, 45000]),
        (["12:30:01", "1:00:00"], [45001, 3600]),
        (["12:30:01.5", "1:00:00.25"], [45001.5, 3600.25]),
        (["1:05 PM", "12:00 AM", ""], [47100, 0, math.nan]),
        (["1:05:30 pm", "11:59:59 am"], [47130, 43199]),
        (["1/2/1970 1:00 PM", "1/31/1970 12:00 AM"], [86400 + 46800, 30 * 86400]),
    ],
)
def test_forms_of_times(cells: list[str], seconds: list[float]) -> None:
    """ISO 8601, days and months in the order that fits, times of day."""
    values, fit = read_times(cells)
    np.testing.assert_array_equal(values, seconds)
    assert fit.all()


def test_dates_with_two_readings_are_asked_about(tmp_path: Path) -> None:
    """No day beyond the 12th: nobody can tell days and months apart; equal days and months do not matter."""
    with pytest.raises(AmbiguousError):
        read_times(["01/02/2026", "03/04/2026"])
    assert read_times(["01/01/2026", "02/02/2026"])[1].all()
    rows = [[f"{1 + i % 12:02d}/{1 + i % 11:02d}/2026", *row[1:]] for i, row in enumerate(TRUTH)]
    with pytest.raises(TaskError, match=r"column 'a': has dates.*day or the month first.*--drop a"):
        load(tmp_path, rows)


def test_an_odd_date_is_named(tmp_path: Path) -> None:
    """As an odd cell among numbers is."""
    rows = [[f"2026-01-{1 + i % 28:02d}", *row[1:]] for i, row in enumerate(TRUTH)]
    rows[15][0] = "2026-02-30"
    with pytest.raises(TaskError, match="line 17 holds '2026-02-30', but 119 of 120 cells are dates"):
        load(tmp_path, rows)
