"""The job's life: which transitions there are, and that no other ones happen."""

import pytest

from shared.contracts import (
    Backend,
    Feedback,
    JobError,
    JobResult,
    JobSpec,
    ObjectiveReport,
    Progress,
    Sizes,
    SolveStatus,
    State,
    Timings,
)
from solver_service.rules import jobs

RESULT = JobResult(
    objective=ObjectiveReport(name="ramp", start=2, final=1, bound=0, gap=1),
    status=SolveStatus.TIME_LIMIT,
    improved=True,
    changed_weights=1,
    timings=Timings(),
    sizes=Sizes(),
    nodes=0,
    incumbents=[],
    backend=Backend(name="scip", version="10"),
)
PROGRESS = Progress(t_s=1, objective=2, bound=1, gap=0.5, nodes=3)
ERROR = JobError(code="solver_error", detail="it broke")


def queued(**changes: object) -> jobs.Job:
    spec = JobSpec.model_validate({"objective": "ramp", "radius": 0.1, "ttl_s": 60, **changes})
    return jobs.create(spec, snapshot="a" * 64, owner="local", now=1000.0)


def running() -> jobs.Job:
    job = jobs.claim(queued(), worker="w1", now=1001.0)
    assert job is not None
    return job


def test_a_claim_starts_the_next_attempt() -> None:
    """Claiming moves a queued job to running, under a new attempt number."""
    job = running()
    assert (job.state, job.attempt, job.worker, job.started) == (State.RUNNING, 1, "w1", 1001.0)


def test_a_job_can_be_claimed_once() -> None:
    """A duplicate message finds nothing to claim."""
    assert jobs.claim(running(), worker="w2", now=1002.0) is None


def test_a_result_ends_the_job_once() -> None:
    """The first terminal state wins; a second result changes nothing."""
    done = jobs.finish(running(), RESULT, attempt=1, now=1010.0)
    assert done is not None
    assert (done.state, done.result, done.finished) == (State.SUCCEEDED, RESULT, 1010.0)
    assert jobs.finish(done, RESULT, attempt=1, now=1011.0) is None
    assert jobs.fail(done, ERROR, attempt=1, now=1011.0) is None
    assert jobs.cancel(done, now=1011.0) is None


def test_an_earlier_attempt_may_not_speak() -> None:
    """Once another attempt holds the job, the earlier one's result, error and progress are fenced off."""
    back = jobs.lose(running(), attempt=1, now=1020.0)
    assert back is not None
    again = jobs.claim(back, worker="w2", now=1021.0)
    assert again is not None
    assert again.attempt == 2
    assert jobs.finish(again, RESULT, attempt=1, now=1022.0) is None
    assert jobs.fail(again, ERROR, attempt=1, now=1022.0) is None
    assert jobs.lose(again, attempt=1, now=1022.0) is None


def test_the_third_lost_worker_fails_the_job() -> None:
    """A job that kills its workers ends as failed with `worker_lost`."""
    job = queued()
    for attempt in (1, 2, 3):
        claimed = jobs.claim(job, worker="w", now=1001.0)
        assert claimed is not None
        job = jobs.lose(claimed, attempt=attempt, now=1002.0)
        assert job is not None
    assert job.state is State.FAILED
    assert job.error is not None
    assert job.error.code == "worker_lost"


def test_a_shutdown_uses_up_no_attempt() -> None:
    """Released jobs may be released as often as workers shut down."""
    job = queued()
    for attempt in range(1, 8):
        claimed = jobs.claim(job, worker="w", now=1001.0)
        assert claimed is not None
        job = jobs.release(claimed, attempt=attempt, now=1002.0)
        assert job is not None
    assert (job.state, job.lost) == (State.QUEUED, 0)


def test_cancelling_a_queued_job_ends_it() -> None:
    """A job that nobody works on is cancelled at once."""
    job = jobs.cancel(queued(), now=1001.0)
    assert job is not None
    assert job.state is State.CANCELLED


def test_cancelling_a_running_job_keeps_its_incumbent() -> None:
    """The worker of a cancelled job stops, and what it found becomes the result."""
    asked = jobs.cancel(running(), now=1002.0)
    assert asked is not None
    assert asked.state is State.RUNNING
    assert asked.cancel_requested
    done = jobs.finish(asked, RESULT, attempt=1, now=1003.0)
    assert done is not None
    assert (done.state, done.result) == (State.CANCELLED, RESULT)


def lost_while_cancelled(**changes: object) -> jobs.Job:
    """A running job that is being cancelled, after its worker was lost."""
    asked = jobs.cancel(running(), now=1002.0)
    assert asked is not None
    gone = jobs.lose(asked.model_copy(update=changes), attempt=1, now=1003.0)
    assert gone is not None
    return gone


def test_a_cancelled_job_without_an_incumbent_does_not_come_back() -> None:
    """When the worker of a job that is being cancelled is lost, the job ends instead of being queued again."""
    assert lost_while_cancelled().state is State.CANCELLED


def test_a_cancelled_job_comes_back_for_its_incumbent_alone() -> None:
    """The next worker tells the incumbent, or why it cannot; either way the job ends as cancelled."""
    back = lost_while_cancelled(progress=PROGRESS)
    assert (back.state, back.cancel_requested) == (State.QUEUED, True)
    again = jobs.claim(back, worker="w", now=1004.0)
    assert again is not None
    done = jobs.finish(again, RESULT, attempt=2, now=1005.0)
    assert done is not None
    assert (done.state, done.result) == (State.CANCELLED, RESULT)
    failed = jobs.fail(again, ERROR, attempt=2, now=1005.0)
    assert failed is not None
    assert (failed.state, failed.error) == (State.CANCELLED, ERROR)


def test_a_cancelled_job_does_not_wait_for_ever_for_its_incumbent() -> None:
    """To cancel it again changes nothing; when no worker has come by then, it ends."""
    back = lost_while_cancelled(progress=PROGRESS)
    assert jobs.cancel(back, now=1004.0) is None
    assert jobs.expire(back, now=1030.0) is None
    over = jobs.expire(back, now=1034.0)
    assert over is not None
    assert over.state is State.CANCELLED


def test_a_cancelled_job_ends_with_its_third_worker() -> None:
    """A job that is being cancelled and kills its workers ends as cancelled."""
    gone = lost_while_cancelled(progress=PROGRESS, lost=2)
    assert (gone.state, gone.lost) == (State.CANCELLED, 3)


def test_a_worker_that_shuts_down_ends_what_is_being_cancelled() -> None:
    """Such a job is not handed on: its incumbent is at hand, and becomes the result."""
    cancelled = jobs.cancel(running(), now=1002.0)
    assert cancelled is not None
    assert jobs.release(cancelled, attempt=1, now=1003.0) is None
    assert jobs.finish(cancelled, RESULT, attempt=1, now=1003.0) is not None


def test_a_job_expires_only_before_its_first_start() -> None:
    """`ttl_s` bounds the wait for a first start; a job that ran once is never expired."""
    late = jobs.claim(queued(), worker="w", now=1061.0)
    assert late is not None
    assert late.state is State.EXPIRED
    back = jobs.release(running(), attempt=1, now=1002.0)
    assert back is not None
    assert jobs.expire(back, now=9999.0) is None


def test_feedback_needs_an_ended_job() -> None:
    """There is nothing to judge while a job runs, nor of one that ended without weights."""
    assert jobs.judge(running(), Feedback(accepted=True)) is None
    late = jobs.claim(queued(), worker="w", now=1061.0)
    assert late is not None
    assert late.state is State.EXPIRED
    assert jobs.judge(late, Feedback(accepted=True)) is None
    done = jobs.finish(running(), RESULT, attempt=1, now=1010.0)
    assert done is not None
    judged = jobs.judge(done, Feedback(accepted=False, metric="loss"))
    assert judged is not None
    assert judged.feedback is not None


def test_ids_sort_by_time() -> None:
    """A later job has a greater id, which is what lists and cursors rest on."""
    assert jobs.new_id(1000.0) < jobs.new_id(1000.001) < jobs.new_id(99999999.0)


@pytest.mark.parametrize("change", [{"radius": 0.2}, {"objective": "hinge"}, {"limits": {"time_s": 3}}])
def test_the_digest_tells_submissions_apart(change: dict[str, object]) -> None:
    """Two submissions have the same digest exactly when they ask for the same."""
    same = jobs.spec_digest(queued().spec, "a" * 64)
    assert jobs.spec_digest(queued().spec, "a" * 64) == same
    assert jobs.spec_digest(queued(**change).spec, "a" * 64) != same
    assert jobs.spec_digest(queued().spec, "b" * 64) != same
