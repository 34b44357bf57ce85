"""The tunneller's last words: every job accounted for, and no hint that is in force already."""

from typing import Any

import pytest
import torch

from trainer.events import Event, Kind
from trainer.journal import Journal
from trainer.scores import Mode
from trainer.story import NO_GAIN, NOT_JUDGED, NOTHING_BETTER, STILL_OUT, InForce, advice, declined


def event(kind: Kind, **details: Any) -> Event:
    return Event(kind, 0.0, 0, 0, 1, **details)


def nothing_found(start: float, detail: str = "ramp, time_limit") -> list[Event]:
    return [event("stall"), event("answered", before=start, detail=detail), event("rejected", detail=NOTHING_BETTER)]


def test_an_address_is_told_whole() -> None:
    """What comes after it may differ from failure to failure; the reason is one."""
    failures = [f"no answer from the pool at http://127.0.0.1:8000: try {number}" for number in range(2)]
    told = declined([event("failed", detail=failure) for failure in failures])
    assert told == {"no answer from the pool at http://127.0.0.1:8000": 2}


def test_a_job_that_was_still_out_is_told() -> None:
    """Jobs and answers add up; the hint is about those that came."""
    events = [*nothing_found(5.0), event("cancelled"), event("cancelled"), event("answered", job="late")]
    assert declined(events) == {STILL_OUT: 2, NOTHING_BETTER: 1, NOT_JUDGED: 1}
    assert "widen the box" in advice(events, pool_lost=False)


def test_hints_name_numbers() -> None:
    """Twice or half the radius that was used, and twice the time."""
    settings = InForce(auto=False, radius=0.25, time_s=10.0)
    told = advice(nothing_found(5.0), pool_lost=False, settings=settings)
    assert "radius=0.5" in told
    assert "time_s=20" in told
    assert "layer='auto'" in told
    rejected = [event("stall"), event("answered", before=5.0), event("rejected", detail=NO_GAIN)]
    assert "radius=0.12" in advice(rejected, pool_lost=False, settings=settings)


def test_what_is_in_force_is_not_advised() -> None:
    """Neither the policy where it chooses, nor more time where the answer was proved."""
    told = advice(nothing_found(5.0, "ramp, optimal"), pool_lost=False, settings=InForce(auto=True, radius=0.25))
    assert told == "widen the box (radius=0.5)"


@pytest.mark.parametrize(("start", "detail", "fits"), [(0.0, "ramp, optimal", True), (1e-4, "mae, time_limit", False)])
def test_a_layer_that_fits_its_samples_is_told(start: float, detail: str, fits: bool) -> None:
    """A wider box does not help where there is nothing left to gain; numbers may be small and far from it."""
    told = advice(nothing_found(start, detail), pool_lost=False, settings=InForce(auto=True, radius=0.25))
    assert ("already fits its samples: nothing to be had here" in told) == fits
    assert ("widen" in told) != fits


@pytest.mark.parametrize(("mode", "told"), [("max", "gave up 0.25 on validation for what"), ("min", "gained 0.25 on")])
def test_what_a_requirement_costs_is_no_gain(mode: Mode, told: str) -> None:
    """An answer that is adopted for what is required may score worse; the summary says so."""
    journal = Journal(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))
    journal.add("adopted", 1, before=0.75, after=0.5)
    assert told in str(journal.summary(0.0, 0, InForce(mode=mode)))
