"""The record of a tunneller's life: what happened, when, and to which effect."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["stall", "submitted", "answered", "failed", "cancelled", "adopted", "rejected"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    `t_s` counts from the tunneller's start, `step` its `step()` calls and `gd_step` the optimizer's steps up to then.
    `before` and `after` are validation scores (adopted, rejected), or the objective (answered). `way` says how
    an answer was merged, `seconds` and `gd_steps` how long and how many optimizer steps a job took (at its end).
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


@dataclass(frozen=True)
class Summary:
    """A tunneller's life in figures; times in seconds except where the name says otherwise."""

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
