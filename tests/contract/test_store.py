"""The store on a real Redis: compare-and-set, indexes, leases, idempotency, and what an outage looks like."""

import json
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from shared.contracts import JobSpec, State
from solver_service.errors import StoreUnavailableError
from solver_service.queue import HARD_LIMIT_S, TASK, celery_app
from solver_service.reaper import sweep
from solver_service.rules import jobs
from solver_service.settings import Settings
from solver_service.store import Store, keys
from solver_service.store.events import BEGINNING
from solver_service.store.jobs import IdempotencyMismatchError, QueueFullError
from solver_service.store.leases import ReaperLease
from tests.conftest import sent, small_snapshot
from tests.unit.service.test_jobs import PROGRESS, RESULT

SPEC = JobSpec.model_validate({"objective": "ramp", "radius": 0.1})


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    opened = Store.open(Settings(redis_url=redis_url, lease_s=0.05, max_queued=5))
    opened.redis.flushall()
    yield opened
    opened.close()


def add(
    store: Store, *, run: str | None = None, owner: str = "local", token: str | None = None, priority: str = "normal"
) -> jobs.Job:
    spec = SPEC.model_copy(update={"run": run, "priority": priority})
    job = jobs.create(spec, snapshot="a" * 64, owner=owner, now=store.jobs.now())
    return store.jobs.add(job, idempotency=None if token is None else (token, jobs.spec_digest(spec, "a" * 64)))[0]


def claim(store: Store, job: jobs.Job, worker: str = "w") -> jobs.Job | None:
    return store.jobs.update(job.id, partial(jobs.claim, worker=worker, now=store.jobs.now()))


def test_only_one_of_many_claims_wins(store: Store) -> None:
    """However many workers receive a message, exactly one gets the job."""
    job = add(store)
    won: list[str] = []

    def race(name: str) -> None:
        if claim(store, job, name) is not None:
            won.append(name)

    threads = [threading.Thread(target=race, args=(f"w{i}",)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    found = store.jobs.get(job.id)
    assert found is not None
    assert found.worker == won[0]


def test_a_result_and_its_record_are_written_together(store: Store) -> None:
    """A finished job has its result file; a fenced-off attempt leaves none."""
    job = add(store)
    claim(store, job)
    finish = partial(jobs.finish, result=RESULT, now=store.jobs.now())
    assert store.jobs.update(job.id, partial(finish, attempt=9), result=b"stale") is None
    assert store.blobs.result(job.id) is None
    assert store.jobs.update(job.id, partial(finish, attempt=1), result=b"weights") is not None
    assert store.blobs.result(job.id) == b"weights"
    assert store.jobs.counts()["succeeded"] == 1
    assert store.jobs.running() == []


def test_what_a_change_writes_survives_any_text(store: Store) -> None:
    """Commands travel as JSON: quotes, other scripts, NULs and long numbers come out of Redis as they went in."""
    changes = store.jobs.commit.changes()
    text = 'say "ü\u0000\\ \U0001f600", \n'
    changes.set("text", text)
    changes.zadd("numbers", {"one": 1764054000.123456})
    changes.hincrbyfloat("sums", "x", 0.1)
    assert store.jobs.commit(changes, "absent", None)
    assert store.redis.get("text") == text.encode()
    assert store.redis.zscore("numbers", "one") == 1764054000.123456
    assert float(store.redis.hget("sums", "x") or 0) == 0.1
    assert not store.jobs.commit(changes, "text", b"another")


def test_the_bytes_that_are_kept_are_counted(store: Store) -> None:
    """A snapshot counts once however often it is sent, a result when it is stored; both for their owner."""
    assert store.blobs.put_snapshot("local", "a" * 64, bytes(100))
    assert not store.blobs.put_snapshot("local", "a" * 64, bytes(100))
    assert store.blobs.put_snapshot("other", "a" * 64, bytes(100))
    assert store.quota.used("local") == (100, 200)
    job = add(store)
    mine, everyone = store.quota.used("local")
    assert mine > 100 + len(job.model_dump_json())
    claim(store, job)
    store.jobs.update(job.id, partial(jobs.finish, result=RESULT, now=store.jobs.now(), attempt=1), result=bytes(11))
    assert store.quota.used("local") == (mine + 11, everyone + 11)


def test_a_snapshot_that_a_job_needs_longer_is_not_cut_short(store: Store) -> None:
    """Sent again, a snapshot keeps the longer one of its lives."""
    store.blobs.put_snapshot("local", "a" * 64, b"x")
    store.blobs.prolong("local", "a" * 64, 7 * 86400)
    store.blobs.put_snapshot("local", "a" * 64, b"x")
    assert store.redis.ttl(f"gds:snapshot:local:{'a' * 64}") > 6 * 86400


def test_what_waits_is_known_by_priority(store: Store) -> None:
    """The queue's depth and the age of its oldest job follow claims and requeues."""
    job = add(store)
    depth, age_s = store.jobs.waiting()["normal"]
    assert depth == 1
    assert 0 <= age_s < 5
    claim(store, job)
    assert store.jobs.waiting() == {"high": (0, 0.0), "normal": (0, 0.0), "low": (0, 0.0)}
    store.jobs.update(job.id, partial(jobs.release, attempt=1, now=store.jobs.now()))
    assert store.jobs.waiting()["normal"][0] == 1


def test_the_same_idempotency_key_gives_the_same_job(store: Store) -> None:
    """Same key and body: one job. Another body: refused. Another owner's key is another key."""
    first = add(store, token="k")
    assert add(store, token="k").id == first.id
    assert add(store, token="k", owner="other").id != first.id
    with pytest.raises(IdempotencyMismatchError):
        add(store, token="k", run="another")


def test_a_full_queue_refuses(store: Store) -> None:
    """No more than `max_queued` jobs wait."""
    for _ in range(5):
        add(store)
    with pytest.raises(QueueFullError):
        add(store)


def test_lists_are_newest_first_and_scoped(store: Store) -> None:
    """A list holds the owner's jobs alone, newest first, page by page, by run and by state."""
    mine = [add(store, run="r" if i % 2 else None).id for i in range(4)]
    add(store, owner="other")
    page, cursor = store.jobs.page("local", run=None, state=None, limit=3, cursor=None)
    rest, end = store.jobs.page("local", run=None, state=None, limit=3, cursor=cursor)
    assert sorted([job.id for job in page + rest]) == sorted(mine)
    assert [job.id for job in page] == sorted([job.id for job in page], reverse=True)
    assert end is None
    in_run, _ = store.jobs.page("local", run="r", state=State.QUEUED, limit=9, cursor=None)
    assert {job.id for job in in_run} == {mine[1], mine[3]}
    assert store.jobs.page("local", run="r", state=State.FAILED, limit=9, cursor=None)[0] == []
    assert set(store.jobs.active("local", "r")) == {mine[1], mine[3]}


def test_a_message_is_as_celery_sends_it(store: Store, redis_url: str) -> None:
    """What the store pushes differs in nothing but its ids from what Celery itself would send."""
    job = add(store)
    celery_app(redis_url).send_task(
        TASK, args=[job.id], queue="gdsolver.normal", time_limit=HARD_LIMIT_S, ignore_result=True
    )
    theirs, ours = (json.loads(text) for text in store.redis.lrange("gdsolver.normal", 0, -1))
    assert ours["properties"].pop("reply_to") == ""  # nobody waits for a reply
    theirs["properties"].pop("reply_to")
    for message in (theirs, ours):
        properties, headers = message["properties"], message["headers"]
        assert headers.pop("id") == headers.pop("root_id") == properties.pop("correlation_id")
        assert properties.pop("delivery_tag")
    assert ours == theirs


def test_the_reaper_queues_a_lost_job_again(store: Store) -> None:
    """A running job whose worker fell silent is queued again and its message sent; another one is left alone."""
    lost, kept = add(store), add(store)
    claim(store, lost)
    claim(store, kept)
    store.redis.delete("gdsolver.normal")
    sweep(store, silent=[lost.id])
    assert sent(store.redis) == [lost.id]
    after = store.jobs.get(lost.id)
    assert after is not None
    assert (after.state, after.lost) == (State.QUEUED, 1)
    running = store.jobs.get(kept.id)
    assert running is not None
    assert running.state is State.RUNNING


def test_a_lost_job_need_not_queue_twice(store: Store) -> None:
    """It goes before those that have not begun yet, whatever their priority."""
    lost = add(store)
    assert store.turns.pick() == lost.id
    claim(store, lost)
    other, urgent = add(store), add(store, priority="high")
    sweep(store, silent=[lost.id])
    assert [store.turns.pick() for _ in range(4)] == [lost.id, urgent.id, other.id, None]


def test_the_reaper_sends_forgotten_jobs_only_while_a_worker_is_free(store: Store) -> None:
    """A queued job whose message was lost is sent again, once a worker could take it."""
    job = add(store)
    store.redis.delete("gdsolver.normal")
    sweep(store, forgotten=list(store.jobs.sent()))
    assert sent(store.redis) == []
    store.workers.beat("w", host="h", pid=1, slots=1)
    sweep(store, forgotten=list(store.jobs.sent()))
    assert sent(store.redis) == [job.id]


def test_no_more_is_sent_again_than_workers_are_free_for(store: Store) -> None:
    """A long queue behind one free worker is not sent a second time as a whole."""
    for _ in range(4):
        add(store)
    store.workers.beat("w", host="h", pid=1, slots=1)
    store.redis.delete("gdsolver.normal")
    sweep(store, forgotten=list(store.jobs.sent()))
    assert len(sent(store.redis)) == 1


def test_a_cancelled_job_does_not_wait_for_ever_for_its_incumbent(store: Store) -> None:
    """It lost its worker while it was being cancelled; if no other one comes to tell its incumbent, it ends."""
    job = add(store)
    claim(store, job)
    store.jobs.update(job.id, lambda running: running.model_copy(update={"progress": PROGRESS}))
    store.jobs.update(job.id, partial(jobs.cancel, now=store.jobs.now()))
    back = store.jobs.update(job.id, partial(jobs.lose, attempt=1, now=store.jobs.now() - jobs.LAST_WORDS_S - 1))
    assert back is not None
    assert back.state is State.QUEUED
    assert [found.id for found in store.jobs.overdue()] == [job.id]
    sweep(store)
    ended = store.jobs.get(job.id)
    assert ended is not None
    assert ended.state is State.CANCELLED
    assert store.jobs.overdue() == []


def test_a_job_expires_on_time_without_a_worker(store: Store) -> None:
    """`ttl_s` is kept by the reaper, whatever the time since its message was sent; one that ran is left alone."""
    late, begun = add(store), add(store)
    claim(store, begun)
    store.redis.zadd(keys.EXPIRING, {late.id: 1.0}, xx=True)
    assert [job.id for job in store.jobs.overdue()] == [late.id]
    store.jobs.update(late.id, lambda job: job.model_copy(update={"created": 1.0}))
    sweep(store)
    found = store.jobs.get(late.id)
    assert found is not None
    assert found.state is State.EXPIRED
    assert store.jobs.overdue() == []


def test_events_are_written_with_the_change_they_tell(store: Store) -> None:
    """A transition that is refused tells nothing; one that is made is told once, and listeners hear of it."""
    heard: list[tuple[str, jobs.Job | None]] = []
    ended = threading.Event()
    listener = threading.Thread(target=lambda: heard.extend(store.events.listen(ended.is_set)))
    listener.start()
    threading.Event().wait(0.3)
    job = add(store)
    claim(store, job)
    assert claim(store, job) is None
    told = store.events.after(job.id, BEGINNING)
    assert [event.data["state"] for event in told] == ["queued", "running"]
    assert store.events.after(job.id, str(told[0].id)) == told[1:]
    done = store.jobs.update(job.id, partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now()))
    assert done is not None
    threading.Event().wait(0.3)
    ended.set()
    listener.join()
    assert heard == [(job.id, None), (job.id, done)]


def test_what_was_seen_saves_a_question_and_hides_no_change(store: Store) -> None:
    """A job as it was seen lately may be changed at once; if it has changed since, the change is made to what it is."""
    job = add(store)
    claimed = claim(store, job)
    assert claimed is not None
    store.jobs.update(job.id, partial(jobs.cancel, now=store.jobs.now()))
    finish = partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now())
    done = store.jobs.update(job.id, finish, seen=claimed)
    assert done is not None
    assert done.state is State.CANCELLED
    assert store.jobs.update(job.id, finish, seen=claimed) is None


def test_a_snapshot_lives_as_long_as_a_job_may_wait_for_it(store: Store) -> None:
    """Reading it for a job prolongs its life, and sending it again does not cut it short."""
    name = keys.snapshot("local", "a" * 64)
    assert store.blobs.put_snapshot("local", "a" * 64, b"data")
    assert (store.blobs.prolong("local", "a" * 64, 3 * 86400) or 0) >= 3 * 86400
    assert store.blobs.snapshot("local", "a" * 64) == b"data"
    assert store.redis.ttl(name) >= 3 * 86400
    assert not store.blobs.put_snapshot("local", "a" * 64, b"data")
    assert store.redis.ttl(name) >= 3 * 86400


def test_a_large_blob_is_handed_over_in_pieces(store: Store) -> None:
    """It is there as a whole, with its time to live, or not at all; nothing is left of the pieces."""
    data = bytes(range(256)) * 10_000
    assert store.blobs.put_snapshot("local", "b" * 64, data)
    assert not store.blobs.put_snapshot("local", "b" * 64, data)
    assert store.blobs.snapshot("local", "b" * 64) == data
    assert 0 < store.redis.ttl(keys.snapshot("local", "b" * 64)) <= store.blobs.keep_s
    assert store.redis.keys(keys.arriving("*")) == []
    assert store.quota.used("local") == (len(data), len(data))


def test_the_same_bytes_sent_twice_at_once_are_stored_once(store: Store) -> None:
    """One of many senders has stored them; they are counted once, and nothing of the others is left."""
    data = bytes(1_000_000)
    new: list[bool] = []
    threads = [
        threading.Thread(target=lambda: new.append(store.blobs.put_snapshot("local", "c" * 64, data))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False] * 5 + [True]
    assert store.quota.used("local") == (len(data), len(data))
    assert store.redis.keys(keys.arriving("*")) == []


def test_a_repeated_submission_finds_its_job_in_a_full_queue(store: Store) -> None:
    """The queue has no room for a new job, but the one that is asked for is there already."""
    first = add(store, token="k")
    for _ in range(4):
        add(store)
    with pytest.raises(QueueFullError):
        add(store, token="other")
    assert add(store, token="k") == first


def test_a_snapshot_is_remembered_for_a_while_and_cannot_be_changed(store: Store, redis_url: str) -> None:
    """The next job on the same snapshot does not fetch it; jobs share its arrays, so that none may write to them."""
    data = small_snapshot().to_bytes()
    store.blobs.put_snapshot("local", "a" * 64, data)
    found = store.snapshots.get("local", "a" * 64)
    assert found is not None
    assert store.snapshots.get("local", "a" * 64) is found
    assert store.snapshots.get("other", "a" * 64) is None
    with pytest.raises(ValueError, match="read-only"):
        found.weight[:] = 0
    store.redis.flushall()
    fresh = Store.open(Settings(redis_url=redis_url))
    assert fresh.snapshots.get("local", "a" * 64) is None
    fresh.close()


def test_one_reaper_at_a_time(store: Store, redis_url: str) -> None:
    """Of several gateways one reaps."""
    other = Store.open(Settings(redis_url=redis_url))
    assert store.reaper.hold()
    assert not other.reaper.hold()
    assert store.reaper.hold()
    other.close()


def test_a_reaper_that_died_when_the_clock_was_set_back_is_succeeded(store: Store) -> None:
    """Redis would keep its lease for an hour; another gateway has seen that it is silent, and takes over."""
    here = [0.0]
    other = ReaperLease(store.redis, "other", clock=lambda: here[0])
    assert store.reaper.hold()
    store.redis.persist(keys.REAPER)
    for seconds, taken in ((0.0, False), (4.0, False), (6.0, True)):
        here[0] = seconds
        assert other.hold() is taken
    assert not store.reaper.hold()


def test_workers_are_alive_while_they_beat(store: Store) -> None:
    """A worker that fell silent is gone from the list."""
    store.workers.beat("here", host="h", pid=1, slots=2)
    store.workers.beat("left", host="h", pid=2, slots=1)
    store.workers.leave("left")
    job = add(store)
    claim(store, job, "here")
    store.jobs.update(job.id, partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now()))
    (worker,) = store.workers.alive()
    assert (worker.name, worker.slots, worker.solved) == ("here", 2, 1)


def test_an_outage_is_one_error() -> None:
    """Whatever Redis or the way to it raises becomes StoreUnavailableError."""
    away = Store.open(Settings(redis_url="unix:///nowhere/redis.sock"))
    with pytest.raises(StoreUnavailableError):
        away.ping()
    with pytest.raises(StoreUnavailableError):
        away.jobs.get("x")
    with pytest.raises(StoreUnavailableError):
        away.blobs.snapshot("x", "y")
