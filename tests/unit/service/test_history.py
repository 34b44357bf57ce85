"""A job's events: each transition is told, once, with what a watcher needs."""

from shared.contracts import Progress, State
from solver_service.rules import jobs
from solver_service.rules.history import happenings
from tests.unit.service.test_jobs import ERROR, RESULT, queued, running


def kinds(before: jobs.Job | None, after: jobs.Job | None) -> list[tuple[str, object]]:
    assert after is not None
    return [(one.kind, one.data.get("state", one.data.get("message"))) for one in happenings(before, after)]


def test_every_change_of_state_is_told_once() -> None:
    """A new job, its start and its end are one `state` event each."""
    begun = running()
    assert kinds(None, queued()) == [("state", "queued")]
    assert kinds(queued(), begun) == [("state", "running")]
    assert kinds(begun, jobs.finish(begun, RESULT, attempt=1, now=1.0)) == [("state", "succeeded")]


def test_the_last_event_says_how_it_ended() -> None:
    """A result's objective and status, or the error, come with the terminal state."""
    begun = running()
    done = jobs.finish(begun, RESULT, attempt=1, now=1.0)
    failed = jobs.fail(begun, ERROR, attempt=1, now=1.0)
    assert done is not None
    assert failed is not None
    assert happenings(begun, done)[-1].data["objective"]["final"] == 1
    assert happenings(begun, failed)[-1].data["error"]["code"] == "solver_error"


def test_an_incumbent_is_told_when_it_is_new() -> None:
    """Progress gives an `incumbent` event; the same progress again gives none."""
    begun = running()
    found = jobs.report(begun, Progress(t_s=1, objective=2, bound=1, gap=0.5, nodes=3), attempt=1)
    assert found is not None
    (event,) = happenings(begun, found)
    assert (event.kind, event.data["objective"], event.data["attempt"]) == ("incumbent", 2, 1)
    assert happenings(found, found) == []


def test_losses_and_cancellation_leave_a_line() -> None:
    """Whoever watches reads why a job is queued again, and that its cancellation is under way."""
    begun = running()
    assert kinds(begun, jobs.lose(begun, attempt=1, now=1.0)) == [
        ("log", "worker w1 was lost (1 so far)"),
        ("state", "queued"),
    ]
    assert "shutting down" in str(kinds(begun, jobs.release(begun, attempt=1, now=1.0))[0][1])
    asked = jobs.cancel(begun, now=1.0)
    assert [kind for kind, _ in kinds(begun, asked)] == ["log"]
    assert asked is not None
    assert asked.state is State.RUNNING
