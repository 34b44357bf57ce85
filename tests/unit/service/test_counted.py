"""What is counted when a job changes: once, and nothing that did not happen."""

from shared.contracts import Feedback
from solver_service.rules import jobs
from solver_service.rules.metrics import counted
from tests.unit.service.test_jobs import ERROR, RESULT, queued, running


def test_a_submission_an_attempt_and_a_loss_count_once() -> None:
    """Each transition adds what it did; a report of progress adds nothing."""
    job = running()
    assert counted(None, queued(priority="high")) == {"submitted|high": 1}
    assert counted(queued(), job) == {"attempts|": 1}
    assert counted(job, job) == {}
    lost = jobs.lose(job, attempt=1, now=1.0)
    assert lost is not None
    assert counted(job, lost) == {"lost|": 1}


def test_a_result_is_observed_and_a_failure_is_not() -> None:
    """A finished job adds its seconds and what it gained, by objective and solver; a failed one its state alone."""
    job = running()
    timings = RESULT.timings.model_copy(update={"build_s": 0.3, "solve_s": 700.0, "total_s": 701.0})
    done = jobs.finish(job, RESULT.model_copy(update={"timings": timings}), attempt=1, now=9.0)
    assert done is not None
    adds = counted(job, done)
    assert adds["finished|succeeded"] == 1
    assert adds["build_seconds:le:0.5|scip"] == 1
    assert adds["solve_seconds:le:inf|scip"] == 1
    assert adds["solve_seconds:sum|scip"] == 700.0
    assert adds["improvement:le:0.5|ramp"] == 1
    assert (adds["gained|ramp"], adds["solver_seconds|ramp"]) == (1.0, 701.0)
    failed = jobs.fail(job, ERROR, attempt=1, now=9.0)
    assert failed is not None
    assert counted(job, failed) == {"finished|failed": 1}


def test_a_verdict_counts_once() -> None:
    """The first feedback is counted with its staleness; sent again it changes the record alone."""
    done = jobs.finish(running(), RESULT, attempt=1, now=9.0)
    assert done is not None
    judged = jobs.judge(done, Feedback(accepted=True, staleness_steps=5))
    assert judged is not None
    assert counted(done, judged) == {
        "feedback|accepted": 1,
        "staleness_steps:le:10|": 1,
        "staleness_steps:sum|": 5,
    }
    assert counted(judged, judged) == {}
