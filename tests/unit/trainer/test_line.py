"""Slow lines: jobs have fewer samples there, and all of them again when the line is fast."""

import pytest

from tests.unit.trainer.fakes import FakePool, problem
from tests.unit.trainer.test_tunneller import STALLED, Run, eventually
from trainer.pool.line import FEWEST, LEAST_SLOW_S, Line


def test_an_upload_that_takes_half_of_a_job_s_time_halves_the_samples() -> None:
    """And again, down to the fewest that a job has; quick ones bring all of them back."""
    line = Line(time_s=10.0)
    assert (line.samples(1000), line.told()) == (1000, "")
    line.took(6.0)
    assert line.samples(1000) == 500
    assert line.told() == "uploads are slow (the last took 6 s): jobs get 0.5 of the samples"
    for _ in range(9):
        line.took(6.0)
    assert (line.samples(1000), line.samples(20)) == (FEWEST, 20)
    for _ in range(20):
        line.took(0.5)
    assert (line.samples(1000), line.told()) == (1000, "")


def test_between_slow_and_fast_all_stays_as_it_is() -> None:
    """An upload of a fifth of a job's time is neither."""
    line = Line(time_s=10.0, share=0.5)
    line.took(2.0)
    assert line.samples(1000) == 500


def test_a_short_upload_is_never_slow() -> None:
    """Where jobs are short, half of their time may be a busy machine's hiccup."""
    line = Line(time_s=1.0)
    line.took(LEAST_SLOW_S - 0.1)
    assert line.share == 1.0


def test_one_that_is_not_adaptive_gives_all() -> None:
    """With sync a run does not depend on the clock."""
    line = Line(time_s=1.0, adaptive=False)
    line.took(100.0, in_vain=True)
    assert line.samples(1000) == 1000


@pytest.mark.parametrize(("sync", "second"), [(False, FEWEST), (True, 120)])
def test_after_an_upload_in_vain_the_next_job_has_fewer_samples(sync: bool, second: int) -> None:
    """The gateway gave up on the body: the next stall sends half, and the summary says so."""
    pool, run = FakePool(), Run.start()
    tunneller = run.tunneller(pool, sync=sync)
    eventually(lambda: bool(pool.requests))  # the look at the pool
    pool.script.append(problem(408, "too_slow", "the body came too slowly"))
    while not tunneller.summary().failed:
        tunneller.step(STALLED)
    told = str(tunneller.summary())
    while not pool.snapshots:
        tunneller.step(STALLED)
    tunneller.close()
    assert pool.snapshots[0].samples == second
    assert ("uploads are slow" in told) is not sync
