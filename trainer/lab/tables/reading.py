"""Reads a text file with a header line into columns of text: encoding and separator as told, or as is evident."""

import codecs
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from trainer.errors import TaskError
from trainer.lab.tables.rows import TOLD, UnreadableError, read_rows

Mark = Literal[".", ","]
"""What stands before the decimals."""
SEPARATORS = (",", ";", "\t", "|")
"""What is tried, in this order, where no separator is told."""
NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " "}
PROBE = 200
"""Lines by which the separator is found."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like that of UTF-16: tried before it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NO_TEXT = {
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "an archive, as .zip and .xlsx are",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel's",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "a database",
}
"""How files begin that are no tables of text."""


@dataclass(frozen=True)
class Reading:
    """How to read a table. None: as is evident from the file.

    `drop` are columns to leave out, `words` columns to take as words even if they hold numbers, `weights` the column
    of sample weights.
    """

    separator: str | None = None
    decimal: Mark | None = None
    encoding: str | None = None
    drop: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    weights: str | None = None


@dataclass(frozen=True)
class Column:
    """A column's name, its cells as text without outer blanks, and for each the line of the file that it is in.

    One that is not `optional` can be neither left out nor taken as words: the target, or the weights.
    """

    name: str
    cells: list[str]
    lines: list[int]
    optional: bool = True

    def error(self, message: str) -> TaskError:
        """An error that names this column."""
        return TaskError(message, field=f"column {self.name!r}")


def read_table(path: Path, reading: Reading) -> dict[str, Column]:
    """The columns by name, in the file's order, without those to be dropped and without empty lines.

    Raises TaskError for a file that cannot be read, ragged rows, names that are missing or there twice, or no rows.
    """
    text = _decoded(path, reading.encoding)
    separator = _separator(text, reading.separator)
    try:
        rows = list(read_rows(text, separator))
    except UnreadableError as error:
        raise TaskError(str(error), field=f"csv:{path}") from error
    if len(rows) < 2:
        raise TaskError("needs a header line and rows below it", field=f"csv:{path}")
    (_, header), *body = rows
    for line, row in body:
        if len(row) != len(header):
            raise TaskError(
                f"line {line} has {len(row)} fields, the header {len(header)} (separated by {separator!r}; "
                "if that is wrong, use --separator)",
                field=f"csv:{path}",
            )
    lines = [line for line, _ in body]
    names = _names(header, body, reading.drop, path)
    columns = [Column(name, [row[place] for _, row in body], lines) for place, name in enumerate(names) if name]
    _check_options(names, reading, path)
    return {column.name: column for column in columns if column.name not in reading.drop}


def _decoded(path: Path, encoding: str | None) -> str:
    """The file's text. Evident are a byte order mark, UTF-16 by its zero bytes, and UTF-8; else it is Windows-1252.

    Windows-1252 is Latin-1 with letters where that has control codes.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise TaskError("no such file", field=f"csv:{path}") from error
    except OSError as error:
        raise TaskError(f"cannot be read: {error.strerror}", field=f"csv:{path}") from error
    for mark, what in NO_TEXT.items():
        if data.startswith(mark):
            raise TaskError(f"is {what}, not text; unpack it, or save it as CSV", field=f"csv:{path}")
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except LookupError as error:
            raise TaskError(f"{encoding!r} is no encoding; try utf-8, latin-1 or utf-16", field="--encoding") from error
        except UnicodeError as error:
            why = error.reason if isinstance(error, UnicodeDecodeError) else error
            cure = "try utf-8, latin-1 or utf-16, or leave the option out"
            raise TaskError(f"{path.name} is not {encoding}: {why}; {cure}", field="--encoding") from error
    for guess in _evident(data):
        try:
            return data.decode(guess).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _evident(data: bytes) -> Iterator[str]:
    for mark, name in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            yield name
            return
    head = data[:2000]
    if head.count(0) > len(head) // 4:  # western text in UTF-16 has a zero in every second byte
        yield "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    yield "utf-8"
    yield "cp1252"


def _separator(text: str, told: str | None) -> str:
    """The separator told, or the one by which the first lines have the same number of fields, as many as possible."""
    if told is not None:
        separator = NAMES.get(told.lower(), told)
        if len(separator) != 1 or separator in '\r\n"':
            raise TaskError(f"{told!r} is not one character, nor one of {', '.join(NAMES)}", field="--separator")
        return separator
    first, _, _ = text.partition("\n")
    if first.lower().startswith(TOLD) and len(first.strip()) == len(TOLD) + 1:
        return first.strip()[-1]
    return max(SEPARATORS, key=lambda separator: _regularity(text, separator))


def _regularity(text: str, separator: str) -> tuple[bool, int]:
    """Whether a separator divides all probed lines alike, into more than one field, and into how many the header."""
    widths: list[int] = []
    alike = False
    with suppress(UnreadableError):
        for _, cells in islice(read_rows(text, separator), PROBE):
            widths.append(len(cells))
        alike = len(set(widths)) == 1 and widths[0] > 1
    first, _, _ = text.partition("\n")
    return alike, widths[0] if widths else first.count(separator) + 1


def _names(header: list[str], body: list[tuple[int, list[str]]], drop: tuple[str, ...], path: Path) -> list[str]:
    """The columns' names; empty for one without name and values, as a separator at the lines' ends leaves it."""
    names = list(header)
    for place, name in enumerate(header):
        if not name and any(row[place] for _, row in body):
            names[place] = f"column {place + 1}"
            if names[place] not in drop:
                raise TaskError(
                    f"has no name in the header, as row numbers have; name it, or use --drop {names[place]!r}",
                    field=names[place],
                )
    for name in filter(None, names):
        if names.count(name) > 1:
            cure = f"column {name!r} is there {names.count(name)} times; rename all but one"
            raise TaskError(cure, field=f"csv:{path}")
    return names


def _check_options(names: list[str], reading: Reading, path: Path) -> None:
    """Raise TaskError for an option that names no column of the file."""
    weights = (reading.weights,) if reading.weights else ()
    for option, wanted in (("--drop", reading.drop), ("--words", reading.words), ("--weights", weights)):
        for name in wanted:
            if name not in names:
                has = ", ".join(filter(None, names))
                raise TaskError(f"{path.name} has no column {name!r}; it has: {has}", field=option)
