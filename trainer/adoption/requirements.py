"""What the scores of an adopted model have to keep, as the user writes it: "recall_3 >= 0.75"."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FORM = re.compile(r"\s*(?P<name>.+?)\s*(?P<sign>>=|<=)\s*(?P<value>[-+0-9.eE]+)\s*$")


@dataclass(frozen=True)
class Requirement:
    """A least (or, unless `least`, a largest) value of one of the scores that `validate` returns."""

    name: str
    value: float
    least: bool

    def keeps(self, scores: Mapping[str, float]) -> bool:
        """Whether these scores keep it; NaN keeps nothing. ValueError if there is no such score."""
        if self.name not in scores:
            raise ValueError(f"require names {self.name!r}; validate() returns {sorted(map(str, scores))}")
        found = float(scores[self.name])
        return found >= self.value if self.least else found <= self.value

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.least else '<='} {self.value:g}"


def parse(texts: Sequence[str]) -> tuple[Requirement, ...]:
    """Read requirements of the form "NAME >= VALUE" or "NAME <= VALUE"; ValueError names what is of another form."""
    found = []
    for text in [texts] if isinstance(texts, str) else texts:
        match = FORM.match(text)
        try:
            assert match is not None
            found.append(Requirement(match["name"], float(match["value"]), match["sign"] == ">="))
        except (AssertionError, ValueError):
            raise ValueError(f"require is {text!r}; write it like 'recall_3 >= 0.75' or 'gap <= 0.1'") from None
    return tuple(found)


def broken(requirements: Sequence[Requirement], scores: object) -> tuple[str, ...]:
    """Those that the scores do not keep."""
    if not requirements:
        return ()
    if not isinstance(scores, Mapping):
        raise ValueError("require needs a validate() that returns a dict of scores, with `monitor` naming the main one")
    return tuple(str(requirement) for requirement in requirements if not requirement.keeps(scores))
