"""The record of a tunneller's life: what happened, when, and to which effect."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.course import Course

Kind = Literal[
    "stall", "polish", "submitted", "answered", "failed", "cancelled", "adopted", "rejected", "refused", "undone"
]  # fmt: skip


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    `t_s` counts from the tunneller's start, `step` its `step()` calls and `gd_step` the optimizer's steps up to then.
    `before` and `after` are validation scores (adopted, rejected), or the objective (answered). `way` says how
    an answer was merged, `seconds` and `gd_steps` how long and how many optimizer steps a job took (at its end), or
    the pass over the samples (stall, polish). `polish` is a try of the last tunnel, after training; `stall` numbers
    these on. `refused`: the live model does not do what the job promised. `undone`: the loop has set back what was
    adopted.
    """

    kind: Kind
    t_s: float
    step: int
    gd_step: int
    stall: int
    job: str | None = None
    way: str | None = None
    before: float | None = None
    after: float | None = None
    staleness_steps: int | None = None
    seconds: float | None = None
    gd_steps: int | None = None
    detail: str | None = None


NUMBERS = ("t_s", "before", "after", "seconds")


def as_state(event: Event) -> dict[str, Any]:
    """An event as strict JSON has it: infinity and NaN, of which that knows nothing, as text."""
    found = dict(vars(event))  # flat: dataclasses.asdict would copy each value
    for name in NUMBERS:
        if (number := found[name]) is not None and not math.isfinite(number):
            found[name] = str(float(number))
    return found


def of_state(state: Mapping[str, Any]) -> Event:
    """The event of what `as_state` gave."""
    numbers = {name: float(state[name]) for name in NUMBERS if isinstance(state.get(name), str)}
    return Event(**{**state, **numbers})


@dataclass(frozen=True)
class Summary:
    """A tunneller's life in figures; times in seconds except where the name says otherwise.

    `polishes` are the tries of the last tunnel. `course` says how the score went, None where no check was made.
    `longest_step_ms` is the longest `step()` with everything it did: the pass over the samples, validations, trials.
    Of all calls together, `capture_s` went to passes, `trial_s` to trying answers on the kept samples, `validate_s`
    to the user's `validate` (in `validations` calls), and `observe_s` to keeping samples. `gained` is what adoptions
    gained on validation, below 0 where a score was given up for what is required; `declined` says why answers and
    jobs came to nothing, `advice` what to try. `line` says that uploads are slow, and what share of the samples jobs
    get therefore.
    """

    stalls: int
    jobs: int
    answers: int
    adopted: int
    rejected: int
    failed: int
    pool_lost: bool
    gd_steps_during_jobs: int
    longest_step_ms: float
    validate_s: float
    refused: int = 0
    capture_s: float = 0.0
    trial_s: float = 0.0
    observe_s: float = 0.0
    validations: int = 0
    gained: float = 0.0
    declined: Mapping[str, int] = field(default_factory=dict)
    advice: str = ""
    line: str = ""
    polishes: int = 0
    course: Course | None = None

    def __str__(self) -> str:
        """The story in a few lines."""
        lines = [
            f"Summary: {self._told_tunnels()}, {_count(self.jobs, 'job')}, {_count(self.answers, 'answer')}: "
            f"{self.adopted} adopted" + (self._told_gain() if self.adopted else ""),
            *(f"  {count} x {reason}" for reason, count in self.declined.items()),
            *([str(self.course)] if self.course else []),
            f"{self.gd_steps_during_jobs:,} GD steps while jobs were out; longest step() {self.longest_step_ms:.3g} ms"
            f"; validation {self.validate_s:.3g} s in {_count(self.validations, 'call')}, "
            f"passes {self.capture_s:.3g} s, trials {self.trial_s:.3g} s",
            *([self.line] if self.line else []),
        ]
        return "\n".join([*lines, *([f"hint: {self.advice}"] if self.advice else [])])

    def _told_tunnels(self) -> str:
        tries = f" ({self.polishes} tries)" if self.polishes > 1 else ""
        return _count(self.stalls, "stall") + (f" and a last tunnel{tries}" if self.polishes else "")

    def _told_gain(self) -> str:
        if self.gained < 0:
            return f", which gave up {-self.gained:.4g} on validation for what is required"
        return f", which gained {self.gained:.4g} on validation"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
