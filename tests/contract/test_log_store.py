"""Jobs' logs on a real Redis: appended by the attempt that holds the job, bounded, counted, told, and gone with it."""

from functools import partial

import pytest

from shared.contracts import JobError, JobSpec
from shared.errors import ErrorCode
from solver_service import purge
from solver_service.rules import jobs
from solver_service.store import Store, keys
from solver_service.store.attached.logs import LEFT_OUT, MOST_BYTES
from solver_service.store.events import BEGINNING

SPEC = JobSpec.model_validate({"objective": "ramp", "radius": 0.1})
OWNER = "somebody"


def claimed(store: Store, job_id: str | None = None) -> jobs.Job:
    """A running job, new or queued before."""
    if job_id is None:
        made = jobs.create(SPEC, snapshot="a" * 64, owner=OWNER, now=store.jobs.now())
        job_id = store.jobs.add(made)[0].id
    job = store.jobs.update(job_id, partial(jobs.claim, worker="w", now=store.jobs.now()))
    assert job is not None
    return job


def text_of(store: Store, job: jobs.Job) -> str:
    size, read = store.blobs.log_reader(job.id)
    return read(0, size).decode()


def told(store: Store, job: jobs.Job) -> list[str]:
    """What the job's events say its log has grown by."""
    events = store.logs.told(job.id, store.events.after(job.id, BEGINNING, most=10_000))
    return [event.data["message"] for event in events if event.data.get("source") == "solver"]


def test_attempts_append_and_events_tell_it(store: Store) -> None:
    """The log is all texts in order, and each event carries the one it tells of."""
    job = claimed(store)
    texts = ["attempt 1\n", "grün\n", "last\n"]
    assert all(store.logs.append(job, text) for text in texts)
    assert text_of(store, job) == "".join(texts)
    assert told(store, job) == texts


def test_a_log_outlives_its_attempt_and_takes_no_late_words(store: Store) -> None:
    """What a lost attempt wrote stays, the next one goes on below it, and the lost one adds nothing more."""
    first = claimed(store)
    store.logs.append(first, "first\n")
    store.jobs.update(first.id, partial(jobs.lose, attempt=1, now=store.jobs.now()))
    assert not store.logs.append(first, "late\n")
    second = claimed(store, first.id)
    assert not store.logs.append(first, "late\n")
    assert store.logs.append(second, "second\n")
    assert text_of(store, first) == "first\nsecond\n"


@pytest.mark.parametrize("forgotten", [False, True])
def test_last_words_come_before_the_end_and_once(store: Store, forgotten: bool) -> None:
    """They travel with the change that ends the attempt, also where the record has changed or scripts are forgotten."""
    job = claimed(store)
    store.jobs.update(job.id, lambda before: before.model_copy(update={"cancel_requested": True}))
    if forgotten:
        store.redis.script_flush()
    fail = partial(jobs.fail, error=JobError(code=ErrorCode.SOLVER_ERROR, detail="x"), attempt=1, now=store.jobs.now())
    ended = store.jobs.update(job.id, fail, seen=job, ahead=store.logs.ahead(job, "last words\n"))
    assert ended is not None
    assert ended.state.terminal
    assert text_of(store, job) == "last words\n"
    kinds = [event.kind for event in store.events.after(job.id, BEGINNING, most=100)]
    assert kinds[-2:] == ["log", "state"]


def test_a_long_log_keeps_its_begin_and_its_end(store: Store) -> None:
    """It stays bounded however long it gets, says what is missing, and events still find what is left of it."""
    job = claimed(store)
    lines = [f"line {number} {'x' * 990}\n" for number in range(900)]
    for line in lines:
        store.logs.append(job, line)
    text = text_of(store, job)
    assert len(text) <= MOST_BYTES
    assert text.count(LEFT_OUT.decode()) == 1
    begin, end = text.split(LEFT_OUT.decode())
    whole = "".join(lines)
    assert whole.startswith(begin)
    assert whole.endswith(end)
    heard = told(store, job)
    assert "".join(heard) == begin + end
    assert [line for line in heard if line] == [line for line in lines if line in text]


def test_logs_are_counted_while_they_grow_and_shrink(store: Store) -> None:
    """What is counted for the owner is what is stored, whatever was appended or left out."""
    job = claimed(store)
    before, in_all = store.quota.used(OWNER)
    for number in range(5):
        store.logs.append(job, number * 40_000 * "x" + "\n")
        size = store.blobs.log_reader(job.id)[0]
        assert store.quota.used(OWNER) == (before + size, in_all + size)


def test_a_log_goes_with_its_record(store: Store) -> None:
    """It expires as the record does, and purging a key's jobs leaves nothing of it, counted or stored."""
    job = claimed(store)
    store.logs.append(job, "text\n")
    for name in (keys.log(job.id), keys.log_places(job.id)):
        assert 0 < store.redis.ttl(name) <= store.jobs.keep_record_s
    store.jobs.update(job.id, partial(jobs.release, attempt=1, now=store.jobs.now()))
    purge.purge(store, OWNER)
    assert [name for name in store.redis.scan_iter() if b"log" in name] == []
    assert store.quota.used(OWNER)[0] == 0


def test_another_releases_events_pass_as_they_are(store: Store) -> None:
    """Lines of the service's own, which have no place in the log, are left alone."""
    job = claimed(store)
    store.jobs.update(job.id, partial(jobs.lose, attempt=1, now=store.jobs.now()))
    events = store.events.after(job.id, BEGINNING)
    assert store.logs.told(job.id, events) == events
