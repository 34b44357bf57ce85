"""Divides a table's text into rows of cells, and names the quote that would swallow all rows behind it."""

import csv
import io
import re
from collections.abc import Iterator

TOLD = "sep="
"""A first line that begins so tells Excel the separator."""
MOST_LINES = 100
"""No row takes more lines than this: a quote that is not closed was there first."""
LINE_END = re.compile(r"\r\n|\r|\n")


class UnreadableError(ValueError):
    """The text is no table; the message names the line, and the cure."""


def read_rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Every row that is not empty, its cells stripped, with the number of its (last) line.

    A quoted cell may hold line ends. Raises UnreadableError if a quote is not closed before the separator, the end of
    its line, or the text ends.
    """
    row: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            if len(row) == MOST_LINES:
                raise _not_closed(row, separator, reader.line_num)
            row.append(line)
            yield line
        if row:  # the reader asks for more of it
            raise _not_closed(row, separator, reader.line_num)

    reader = csv.reader(lines(), delimiter=separator, skipinitialspace=True)
    try:
        for found in reader:
            if len(row) > 1 and _open_quote("".join(row), separator) is not None:
                raise _not_closed(row, separator, reader.line_num)
            row.clear()
            cells = [cell.strip() for cell in found]
            told = bool(cells) and reader.line_num == 1 and cells[0].lower().startswith(TOLD)
            if any(cells) and not told:
                yield reader.line_num, cells
    except csv.Error as error:
        if len(row) > 1:
            raise _not_closed(row, separator, reader.line_num) from error
        raise UnreadableError(f"line {reader.line_num} cannot be read: {error}") from error


def _not_closed(row: list[str], separator: str, last: int) -> UnreadableError:
    """The error for a row of these lines, of which `last` is the number of the last one."""
    text = "".join(row)
    lines_before = len(LINE_END.findall(text[: _open_quote(text, separator) or 0]))
    begun = last - len(row) + 1 + lines_before
    return UnreadableError(f"a quote that begins in line {begun} is not closed; double it, or remove it")


def _open_quote(row: str, separator: str) -> int | None:
    """The place of a quote that nothing closes, or only what stands before more of a cell, lines later."""
    between = rf"[^{re.escape(separator)}\r\n]*"
    quoted = rf'(?P<quote>")(?P<inside>[^"]*(?:""[^"]*)*)(?:(?P<end>")(?P<more>{between})|\Z)'
    for cell in re.finditer(rf" *(?:{quoted}|{between})(?:{re.escape(separator)}|[\r\n]+|\Z)", row):
        if cell["quote"] and (not cell["end"] or (cell["more"].strip() and LINE_END.search(cell["inside"]))):
            return cell.start("quote")
    return None
