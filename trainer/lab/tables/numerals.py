"""The one rule by which a cell is read as a number, as a person would: thousands, currency, percent, gaps."""

import math
import re
import unicodedata
from functools import cache
from typing import NamedTuple

from trainer.lab.tables.reading import Mark

NO_VALUE = frozenset({"", "?", "na", "n/a", "#n/a", "<na>", "nan", "+nan", "-nan", "nat", "null"})
"""In any column, in lower case, no value."""
NO_NUMBER = NO_VALUE | {
    *("none", "nil", "missing", "-", "--", "---", "\u2013", "\u2014", ".", "..", ":", "\u221e", "+\u221e", "-\u221e"),
    *(f"{sign}{word}" for sign in ("", "+", "-") for word in ("inf", "infinity")),
    *("#div/0!", "#value!", "#num!", "#ref!", "#null!", "#name?", "1.#inf", "-1.#inf", "1.#qnan", "-1.#ind"),
}
"""In a column of numbers, no value, infinities among them; in one of words these may be words like any other."""
CURRENCIES = "".join(chr(code) for code in range(0x2100) if unicodedata.category(chr(code)) == "Sc")
LARGEST = 3.4e38
MINUS = "\u2212"
PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
"""What most cells are: worth looking for first, because the whole rule takes five times as long."""


class Number(NamedTuple):
    """A cell's number in Python's spelling, and its mark: a currency's sign, `%` or none."""

    numeral: str
    mark: str = ""

    @property
    def value(self) -> float:
        """As a float; 5 % is 0.05, and what is beyond the range of float32 is missing (NaN), as infinity is."""
        value = float(self.numeral) * (0.01 if self.mark == "%" else 1.0)
        return value if abs(value) <= LARGEST else math.nan


MISSING = Number("nan")


def read_number(text: str, decimal: Mark) -> Number | None:
    """Read a cell: MISSING if it stands for no value, None if it is no number.

    Digits may be grouped in threes by blanks, apostrophes, or whichever of comma and point is not the decimal mark; the
    first group does not begin with 0. A sign, exponent, currency or percent sign are understood, and parentheses for
    minus.
    """
    if decimal == "." and PLAIN.fullmatch(text):
        return Number(text)
    if text.lower() in NO_NUMBER:
        return MISSING
    found = _pattern(decimal).fullmatch(text)
    if not found or not (found["whole"] or found["part"]):
        return None
    before, after = found["before"] or "", found["after"] or ""
    signs = [sign for sign in (found["sign"], found["inner"], found["open"]) if sign]
    if (before and after) or len(signs) > 1 or bool(found["open"]) != bool(found["close"]):
        return None
    whole = re.sub(r"[^0-9]", "", found["whole"] or "0")
    sign = "-" if signs and signs[0] != "+" else ""
    exponent = (found["exponent"] or "").replace(MINUS, "-")
    return Number(f"{sign}{whole}.{found['part'] or '0'}{exponent}", before or after)


@cache
def _pattern(decimal: Mark) -> re.Pattern[str]:
    group = "," if decimal == "." else "."
    sign, currency = rf"[+\-{MINUS}]", f"[{re.escape(CURRENCIES)}]"
    return re.compile(
        rf"(?P<open>\()? (?P<sign>{sign})? (?:(?P<before>{currency})\s*)? (?P<inner>{sign})?"
        rf"(?P<whole>[1-9][0-9]{{0,2}}(?P<gap>[{group}'\u2019\u0020\u00a0\u2009\u202f])[0-9]{{3}}(?:(?P=gap)[0-9]{{3}})*|[0-9]+)?"
        rf"(?:{re.escape(decimal)}(?P<part>[0-9]*))? (?P<exponent>[eE]{sign}?[0-9]+)?"
        rf"(?:\s*(?P<after>%|{currency}))? (?P<close>\))?".replace(" ", "")
    )
