"""What the scores of an adopted model have to keep, as users write it: "recall_3 >= 0.75", or {"recall_3": 0.75}."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

from trainer.scores import as_float

Required = Sequence[str] | Mapping[str, SupportsFloat | str]
"""What a user writes: ["recall_3 >= 0.75"], or {"recall_3": 0.75}: at least that."""
FORM = re.compile(r"\s*(?P<name>.+?)\s*(?P<sign>>=|<=)\s*(?P<value>[-+0-9.eE]+)\s*$")


@dataclass(frozen=True)
class Requirement:
    """A least (or, unless `least`, a largest) value of one of the scores that `validate` returns."""

    name: str
    value: float
    least: bool

    def keeps(self, scores: Mapping[str, float]) -> bool:
        """Whether these scores keep it; NaN and None keep nothing. ValueError if there is no such score."""
        if self.name not in scores:
            raise ValueError(f"require names {self.name!r}; validate() returns {sorted(map(str, scores))}")
        value: Any = scores[self.name]
        try:
            found = math.nan if value is None else as_float(value)
        except Exception:  # what it raises is the value's own matter
            raise ValueError(
                f"require names {self.name!r}, and validate() returns {value!r:.80} for it; return a number, or None "
                "where there is none"
            ) from None
        return found >= self.value if self.least else found <= self.value

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.least else '<='} {self.value:g}"


def number(value: Any) -> float:
    """A number of any library as a float, of a tensor the one that it holds; raises anything for what is none."""
    if isinstance(value, str | bytes | bool):
        raise ValueError("no number")
    return as_float(value)


def parse(given: Required) -> tuple[Requirement, ...]:
    """Read what is required; ValueError names what cannot be.

    Sentences "NAME >= VALUE" or "NAME <= VALUE", or a mapping of names to least values (or to such as "<= 0.1").
    """
    if not isinstance(given, Mapping):
        return tuple(_sentence(text, text) for text in ([given] if isinstance(given, str) else given))
    return tuple(_entry(name, value) for name, value in given.items())


def _sentence(text: str, told: object) -> Requirement:
    match = FORM.match(text) if isinstance(text, str) else None
    try:
        if match is not None:
            return Requirement(match["name"], float(match["value"]), match["sign"] == ">=")
    except ValueError:
        pass  # signs and digits that make no number
    raise ValueError(f"require is {told!r}; write it like 'recall_3 >= 0.75' or 'gap <= 0.1'")


def _entry(name: str, value: SupportsFloat | str) -> Requirement:
    if isinstance(value, str):
        return _sentence(f"{name} {value}", {name: value})
    try:
        least = number(value)
    except Exception:  # what is no number may raise anything when it is read as one
        least = math.nan
    if not math.isfinite(least):
        raise ValueError(f"require is {{{name!r}: {value!r:.80}}}; give the least value as a number, or say '<= 0.1'")
    return Requirement(name, least, least=True)


def broken(requirements: Sequence[Requirement], scores: object) -> tuple[str, ...]:
    """Those that the scores do not keep."""
    if not requirements:
        return ()
    if not isinstance(scores, Mapping):
        raise ValueError("require needs a validate() that returns a dict of scores, with `monitor` naming the main one")
    return tuple(str(requirement) for requirement in requirements if not requirement.keeps(scores))
