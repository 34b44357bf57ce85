"""Files of tables: separators, decimal marks and encodings as told or as evident, and the ways of other programs."""

import gzip
from pathlib import Path

import pytest
import torch

from tests.unit.trainer.tables import TRAIN, TRUTH, A, B, Y, changed, fit_error, load, read, write
from trainer.errors import TaskError
from trainer.lab.tables.columns import decimal_marks
from trainer.lab.tables.reading import Column, Mark


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_separator_and_decimals_are_detected(tmp_path: Path, separator: str, decimal: str) -> None:
    """Every mix gives the same numbers, also quoted commas between commas."""
    rows = [[f"{float(cell):.2f}".replace(".", decimal) for cell in row] for row in TRUTH]
    task = read(write(tmp_path, rows, separator=separator))
    assert task.train.inputs.shape[1] == 2
    assert fit_error(task) < 1e-5


def test_the_example_of_the_readme_works(tmp_path: Path) -> None:
    """wine.csv as UCI has it: semicolons, quoted names with blanks, points."""
    rows = [f"{7 + a / 10:.1f};{3 + b / 10:.2f};{5 + i % 3}" for i, (a, b) in enumerate(zip(A, B, strict=True))]
    (tmp_path / "wine.csv").write_text("\n".join(['"fixed acidity";"pH";"quality"', *rows]) + "\n")
    task = read(f"csv:{tmp_path}/wine.csv", target="quality")
    assert task.train.inputs.shape == (len(TRAIN), 2)


def test_thousands_do_not_prove_a_decimal_mark(tmp_path: Path) -> None:
    """`1,234` beside `950` is a thousand; where another column has decimal commas, `1.234` is."""
    american = [[f"{1000 * a:,.0f}", f"{b:.2f}", f"{y:.2f}"] for a, b, y in zip(A, B, Y, strict=True)]
    assert fit_error(load(tmp_path, american)) < 1e-4
    german = [[cell.translate({44: ".", 46: ","}) for cell in row] for row in american]
    assert fit_error(read(write(tmp_path, german, separator=";"))) < 1e-4


def test_a_zero_before_three_digits_proves_a_decimal_mark(tmp_path: Path) -> None:
    """No group of thousands begins with 0: `0,125` is an eighth, and `0.125` beside decimal commas."""
    small = [[f"{a / 1000:.3f}" if abs(a) < 1000 else "1", str(i), str(i)] for i, a in enumerate(A)]
    assert all(row[0].startswith(("0.", "-0.")) for row in small)
    small[0][0], small[1][0] = "1", "0"
    commas = [[row[0].replace(".", ","), *row[1:]] for row in small]
    inputs = load(tmp_path, small).train.inputs
    assert torch.equal(load(tmp_path, commas).train.inputs, inputs)
    beside = [[row[0], f"{row[1]},5", row[2]] for row in small]
    assert torch.equal(load(tmp_path, beside).train.inputs[:, 0], inputs[:, 0])


@pytest.mark.parametrize(
    ("cells", "marks"),
    [
        (["0,125", "1", "1,250"], ","),
        (["0.125", "1", "1.250"], "."),
        (["-0,125 €", "1,250 €"], ","),
        (["0,125", "1.250"], "."),
        (["0.125", "1.234.567"], ","),
        (["1,250", "1"], "."),
    ],
)
def test_the_mark_behind_a_zero_counts_where_no_other_is(cells: list[str], marks: Mark) -> None:
    """As the column's own, and as that of columns that say nothing; a zero does not outvote other marks."""
    columns = {"a": Column("a", cells, [*range(len(cells))]), "b": Column("b", ["1,234", "2"], [1, 2])}
    assert decimal_marks(columns, None) == {"a": marks, "b": marks}


def test_each_column_may_have_its_own_mark(tmp_path: Path) -> None:
    """Where most cells of a column that have one prove it, however many are whole numbers."""
    rows = [[f"{a:.1f}".replace(".", ","), *row[1:]] for a, row in zip(A, TRUTH, strict=True)]
    assert load(tmp_path, rows).train.inputs.shape[1] == 2
    rows = [["1.5" if i % 3 == 0 else str(i), row[1].replace(".", ","), row[2]] for i, row in enumerate(TRUTH)]
    assert load(tmp_path, rows).train.inputs.shape[1] == 2


def test_a_decimal_mark_that_is_not_clear_is_asked_for(tmp_path: Path) -> None:
    """One decimal comma among three digits behind points might make all of them thousands."""
    with pytest.raises(TaskError, match=r"line 17 holds '5,5'.*--decimal"):
        load(tmp_path, changed("5,5"))
    with pytest.raises(TaskError, match="line 17 holds '5,5', but 119 of 120 cells are numbers"):
        load(tmp_path, changed("5,5"), decimal=".")


def test_a_wrong_decimal_mark_is_named(tmp_path: Path) -> None:
    """Told to take points, a column of decimal commas is not turned into words."""
    rows = [[f"{a:.1f}".replace(".", ","), *row[1:]] for a, row in zip(A, TRUTH, strict=True)]
    with pytest.raises(TaskError, match=r"column 'a': line 2 holds .*--decimal"):
        read(write(tmp_path, rows, separator=";"), decimal=".")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_are_detected(tmp_path: Path, encoding: str) -> None:
    """The column's name and its words come out as they are, whatever wrote the file."""
    rows = [["süß" if i % 2 else "bitter", *row[1:]] for i, row in enumerate(TRUTH)]
    name = write(tmp_path, rows, header="Größe,b,y", encoding=encoding)
    assert read(name, drop=("Größe",)).train.inputs.shape[1] == 1
    assert read(name).train.inputs.shape[1] == 3


def test_separator_and_encoding_can_be_told(tmp_path: Path) -> None:
    """By name or as they are."""
    rows = [[row[0], "ж" if i % 2 else "д", row[2]] for i, row in enumerate(TRUTH)]
    name = write(tmp_path, rows, header="a,ширина,y", separator=" ", encoding="koi8-r")
    for separator in ("space", " "):
        task = read(name, separator=separator, encoding="koi8-r", drop=("ширина",))
        assert task.train.inputs.shape[1] == 1


@pytest.mark.parametrize(
    ("reading", "named"),
    [
        ({"separator": "::"}, "--separator: '::' is not one character"),
        ({"encoding": "klingon"}, "--encoding: 'klingon' is no encoding"),
        ({"encoding": "ascii"}, r"--encoding: table\.csv is not ascii"),
        ({"encoding": "punycode"}, r"--encoding: table\.csv is not punycode.*utf-8"),
        ({"encoding": "undefined"}, r"--encoding: table\.csv is not undefined.*utf-8"),
        ({"encoding": "idna"}, r"--encoding: table\.csv is not idna.*utf-8"),
        ({"separator": ";"}, r"--target: table\.csv has no column 'y'.*--separator"),
    ],
)
def test_what_is_told_wrongly_is_named(tmp_path: Path, reading: dict[str, str], named: str) -> None:
    """An option that does not fit names itself."""
    name = write(tmp_path, TRUTH, header="a,größe,y")
    with pytest.raises(TaskError, match=named):
        read(name, **reading)


def test_excel_s_ways_are_understood(tmp_path: Path) -> None:
    """A first line that tells the separator, an empty last column, empty lines at the end."""
    lines = ["sep=;", "a;b;y;", *(";".join([*row, ""]) for row in TRUTH), ";;;", ""]
    (tmp_path / "table.csv").write_text("\r\n".join(lines))
    assert fit_error(read(f"csv:{tmp_path}/table.csv")) < 1e-6


def test_row_numbers_without_a_name_are_refused(tmp_path: Path) -> None:
    """pandas writes them as a first column, and they often give the order of the classes away."""
    name = write(tmp_path, [[str(i), *row] for i, row in enumerate(TRUTH)], header=",a,b,y")
    with pytest.raises(TaskError, match=r"column 1: has no name.*--drop 'column 1'"):
        read(name)
    assert read(name, drop=("column 1",)).train.inputs.shape[1] == 2


@pytest.mark.parametrize("content", [b"", b"a,b,y\n", b"\xff\xfe", b"\x00\x01\x02", b'a,b,y\n"1,2,3\n'])
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes) -> None:
    """Empty, cut off, or something else: one error that names the file."""
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(TaskError, match=r"table\.csv"):
        read(f"csv:{tmp_path}/table.csv")


# --- quotes -----------------------------------------------------------------------------------------------------------


def in_line(number: int, line: str, rows: int = 200) -> list[str]:
    """A table of the columns a, b and y with a line of its own; the header is line 1."""
    lines = ["a,b,y", *(f"{i},{i % 7},{2 * i}" for i in range(rows))]
    lines[number - 1] = line
    return lines


@pytest.mark.parametrize(
    ("lines", "begun"),
    [
        (in_line(32, '5,"pipe,10'), 32),
        (in_line(201, '5,"pipe,10'), 201),
        (in_line(2, '"5,pipe,10'), 2),
        (in_line(1, 'a,"b,y'), 1),
        (in_line(1, '"a,b,y'), 1),
        (in_line(32, '5,"two\nlines",10\n5,"pipe,10'), 34),
        (in_line(32, '5,"pipe,10\n6,"tube,12'), 32),
        (in_line(32, '5,"pipe,10\n6,7,8\n6,"",8'), 32),
        (in_line(32, '5,"pipe,10', rows=40_000), 32),
        ([*in_line(32, '5,"pipe,10')[:150], '5,pipe",10'], 32),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quote_that_is_not_closed_is_named(tmp_path: Path, lines: list[str], begun: int, end: str) -> None:
    """It would swallow all rows up to the next one, or the end; the line where it began is told, and the cure."""
    (tmp_path / "table.csv").write_bytes((end.join("\n".join(lines).split("\n")) + end).encode())
    named = rf"table\.csv: a quote that begins in line {begun} is not closed; double it, or remove it"
    with pytest.raises(TaskError, match=named):
        read(f"csv:{tmp_path}/table.csv")


@pytest.mark.parametrize(
    "cell",
    ['"two\nlines"', '"two\nlines" ', ' "two\r\nlines"', '"a ""word"" in\n\nquotes"', '5" pipe', '""', '"5"" pipe"'],
)
def test_a_quoted_cell_may_hold_lines_and_quotes(tmp_path: Path, cell: str) -> None:
    """So may one that is not quoted hold a quote."""
    lines = ["a,b,y", *(f"{i},{cell if i % 2 else 'x'},{2 * i}" for i in range(60))]
    (tmp_path / "table.csv").write_bytes("\n".join(lines).encode())
    assert read(f"csv:{tmp_path}/table.csv").train.inputs.shape[1] == 3


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(b"x,y\n1,2\n3,4\n", mtime=0), "compressed by gzip"),
        (b"PK\x03\x04" + bytes(300), "an archive, as .zip and .xlsx are"),
        (b"PAR1" + bytes(300), "a Parquet file"),
    ],
    ids=["gzip", "archive", "Parquet"],
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    """By how it begins, whatever its name."""
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(TaskError, match=f"is {what}, not text"):
        read(f"csv:{tmp_path}/table.csv")
