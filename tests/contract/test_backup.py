"""A pool in a file and back, on real Redis databases: nothing is lost, nothing is there twice, and jobs go on."""

import dataclasses
import io
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import structlog
import structlog.testing
from typer.testing import CliRunner

from shared.contracts import JobSpec, State
from solver_service.backup.file import PIECE_BYTES, BackupError, Writer, check, entries
from solver_service.backup.restore import NotEmptyError, restore
from solver_service.backup.take import Kept, take
from solver_service.cli import app
from solver_service.purge import purge
from solver_service.rules import jobs
from solver_service.rules.batches import create as create_batch
from solver_service.rules.owners import Scope, create_key
from solver_service.settings import Settings
from solver_service.store import Store, keys
from solver_service.store.events import BEGINNING
from tests.contract.test_store import SPEC, add, claim
from tests.unit.service.test_jobs import PROGRESS, RESULT

LARGE = random.Random(0).randbytes(3 * PIECE_BYTES + 5)
SNAPSHOT = "a" * 64


def opened(url: str) -> Iterator[Store]:
    store = Store.open(Settings(redis_url=url, max_queued=50))
    store.redis.flushdb()
    yield store
    store.redis.flushdb()
    store.close()


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    yield from opened(redis_url)


@pytest.fixture
def other(redis_url: str) -> Iterator[Store]:
    yield from opened(f"{redis_url}?db=1")


@pytest.fixture
def filled(store: Store) -> dict[str, jobs.Job]:
    """A pool with a key, a batch, and jobs that are queued, running, over and cancelled."""
    key, _ = create_key("alice", {Scope.SUBMIT}, now=store.jobs.now(), owner="0" * 16)
    store.apikeys.add(key)
    store.turns.weigh(key.owner, 3)
    store.blobs.put_snapshot(key.owner, SNAPSHOT, LARGE)
    made = {name: add(store, owner=key.owner, run="r", token=name) for name in ("done", "running", "queued", "gone")}
    claim(store, made["done"])
    assert store.logs.append(_found(store, made["done"]), "solver: begins\n")
    finish = partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now())
    store.jobs.update(made["done"].id, finish, result=LARGE[::-1])
    claim(store, made["running"])
    store.jobs.update(made["running"].id, partial(jobs.report, progress=PROGRESS, attempt=1))
    store.blobs.put_incumbent(made["running"].id, 1, b"incumbent")
    store.jobs.update(made["gone"].id, partial(jobs.cancel, now=store.jobs.now()))
    batch, members = create_batch([SPEC, SPEC], snapshot=SNAPSHOT, owner=key.owner, now=store.jobs.now())
    store.batches.add(batch, members)
    return {**made, "first": members[0], "second": members[1]}


def _found(store: Store, job: jobs.Job) -> jobs.Job:
    found = store.jobs.get(job.id)
    assert found is not None
    return found


def backed_up(store: Store) -> io.BytesIO:
    file = io.BytesIO()
    take(store, file)
    return file


def test_everything_is_there_again(store: Store, other: Store, filled: dict[str, jobs.Job]) -> None:
    """Records, weights, logs, events, keys, shares and sums are those of the pool that was backed up."""
    owner = filled["done"].owner
    assert restore(other, backed_up(store)) == Kept(jobs=6, unfinished=4, snapshots=1, api_keys=1)
    for name, job in filled.items():
        if name != "running":
            assert other.jobs.get(job.id) == store.jobs.get(job.id), name
    assert other.blobs.snapshot(owner, SNAPSHOT) == LARGE
    done = filled["done"].id
    assert other.blobs.result(done) == LARGE[::-1]
    told = [events.logs.told(done, events.events.after(done, BEGINNING)) for events in (store, other)]
    assert told[0] == told[1] != []
    assert other.apikeys.all() == store.apikeys.all()
    assert other.turns.weights() == {owner: 3.0}
    assert other.jobs.counters() == store.jobs.counters()
    assert other.jobs.recent(9) == store.jobs.recent(9)
    assert {**other.jobs.counts(), "queued": 4, "running": 0} == {**store.jobs.counts(), "queued": 4, "running": 0}
    assert other.quota.used(owner) == store.quota.used(owner)
    batch = other.batches.find(owner, _found(other, filled["first"]).batch or "")
    assert batch is not None
    assert other.batches.members(batch) == [other.jobs.get(filled[name].id) for name in ("first", "second")]


def test_jobs_that_ran_go_on(store: Store, other: Store, filled: dict[str, jobs.Job]) -> None:
    """They have the first turn, with their incumbent and without a lost attempt; all that waited can be claimed."""
    restore(other, backed_up(store))
    turns = [other.turns.pick() for _ in range(5)]
    assert turns[0] == filled["running"].id
    assert set(turns) == {filled[name].id for name in ("running", "queued", "first", "second")} | {None}
    claimed = claim(other, filled["running"])
    assert claimed is not None
    assert (claimed.attempt, claimed.lost, claimed.progress) == (2, 0, PROGRESS)
    assert other.blobs.incumbent(claimed.id) == b"incumbent"
    assert other.jobs.renew(claimed.id, 2)
    last = other.events.after(claimed.id, BEGINNING)
    assert [event.data["state"] for event in last if event.kind == "state"][-2:] == ["queued", "running"]
    finish = partial(jobs.finish, result=RESULT, attempt=2, now=other.jobs.now())
    assert other.jobs.update(claimed.id, finish, result=b"weights") is not None
    assert other.jobs.wakeups() == 4


def test_lists_limits_and_repeated_submissions_know_them(
    store: Store, other: Store, filled: dict[str, jobs.Job]
) -> None:
    """A key's lists, its unfinished jobs, its run, and its idempotency keys are what they were."""
    owner = filled["done"].owner
    restore(other, backed_up(store))
    pages = [one.jobs.page(owner, run="r", state=None, limit=9, cursor=None)[0] for one in (store, other)]
    assert [job.id for job in pages[0]] == [job.id for job in pages[1]]
    assert other.redis.scard(keys.unfinished(owner)) == 4
    assert other.jobs.active(owner, "r") == store.jobs.active(owner, "r")
    assert add(other, owner=owner, run="r", token="done").id == filled["done"].id
    for name in (keys.snapshot(owner, SNAPSHOT), keys.result(filled["done"].id), keys.job(filled["done"].id)):
        assert abs(other.redis.ttl(name) - store.redis.ttl(name)) <= 2
    assert other.redis.ttl(keys.job(filled["queued"].id)) == -1


def test_a_redis_that_is_not_empty_is_left_alone(store: Store, other: Store, filled: dict[str, jobs.Job]) -> None:
    """Heartbeats do not count. With `force` what is missing is added, once, and what is there stays as it is."""
    file = backed_up(store)
    mine = add(other)
    with pytest.raises(NotEmptyError, match="--force"):
        restore(other, file)
    other.redis.flushdb()
    other.workers.beat("w", host="h", pid=1, slots=1)
    assert other.reaper.hold()
    restore(other, file)
    mine = add(other)
    claim(other, filled["queued"])
    used = other.quota.used(filled["done"].owner)
    assert restore(other, file, force=True) == Kept()
    assert other.quota.used(filled["done"].owner) == used
    assert _found(other, filled["queued"]).state is State.RUNNING
    assert _found(other, mine).state is State.QUEUED


def test_a_restore_that_was_broken_off_can_be_run_again(
    store: Store, other: Store, filled: dict[str, jobs.Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stopped, the next one with `force` brings the rest."""
    file = backed_up(store)
    count = sum(1 for _ in entries(file))
    from solver_service.backup import restore as module

    for stop in range(count):
        other.redis.flushdb()
        with monkeypatch.context() as patched:
            patched.setattr(module, "entries", lambda file, stop=stop: itertools.islice(entries(file), stop))
            restore(other, file)
        restore(other, file, force=True)
        assert other.quota.used("x")[1] == store.quota.used("x")[1]
        assert [other.jobs.get(job.id) is None for job in filled.values()] == [False] * 6


def test_a_damaged_file_is_refused_before_anything_is_written(
    store: Store, other: Store, filled: dict[str, jobs.Job]
) -> None:
    """One bit anywhere, a missing end, something behind it, another file: each is told, and Redis stays empty."""
    whole = backed_up(store).getvalue()
    rng = random.Random(1)
    places = [*range(0, 64), *(rng.randrange(len(whole)) for _ in range(40)), len(whole) - 1]
    spoilt = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    spoilt += [whole[: rng.randrange(len(whole))] for _ in range(20)] + [whole + b"x", b"", b"PK\x03\x04" * 99]
    for data in spoilt:
        with pytest.raises(BackupError):
            restore(other, io.BytesIO(data))
    assert other.redis.dbsize() == 0
    with pytest.raises(BackupError, match="another release"):
        check(io.BytesIO(whole.replace(b"backup/1", b"backup/2", 1)))


def churn(store: Store, over: threading.Event, seed: int) -> None:
    """Add, claim, better, finish, cancel and purge jobs of one owner until told to stop."""
    rng, owner, held = random.Random(seed), f"{seed:016x}", list[jobs.Job]()
    while not over.is_set():
        what = rng.random()
        if what < 0.4:
            store.jobs.redis.set(keys.snapshot(owner, SNAPSHOT), b"s")
            add(store, owner=owner)
        elif what < 0.7 and (picked := store.turns.pick()) and (job := store.jobs.get(picked)):
            if claimed := claim(store, job):
                held.append(claimed)
                store.blobs.put_incumbent(claimed.id, claimed.attempt, rng.randbytes(rng.randrange(1, 9999)))
        elif what < 0.98 and held:
            done = held.pop(rng.randrange(len(held)))
            finish = partial(jobs.finish, result=RESULT, attempt=done.attempt, now=store.jobs.now())
            store.jobs.update(done.id, finish, result=rng.randbytes(rng.randrange(1, 9999)))
        elif what >= 0.98:
            purge(store, owner)


def test_a_pool_at_work_is_kept_without_contradictions(store: Store, other: Store) -> None:
    """While four threads change everything, each backup holds jobs with all that belongs to them, and can be used."""
    over = threading.Event()
    store = dataclasses.replace(store, jobs=dataclasses.replace(store.jobs, max_queued=10**6))
    threads = [threading.Thread(target=churn, args=(store, over, seed)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    try:
        files = [backed_up(store) for _ in range(4)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    for file in files:
        other.redis.flushdb()
        kept = restore(other, file)
        found = other.jobs.get_many([name.rpartition(b":")[2].decode() for name in other.redis.scan_iter("gds:job:*")])
        there = [job for job in found if job is not None]
        assert len(there) == len(found) == kept.jobs
        unfinished = {job.id for job in there if not job.state.terminal}
        assert {job.state for job in there} <= {State.QUEUED, State.SUCCEEDED, State.CANCELLED}
        for job in there:
            assert bool(other.blobs.result(job.id)) == (job.result is not None)
        picked = [other.turns.pick() for _ in range(len(unfinished) + 1)]
        assert picked.pop() is None
        assert set(picked) == unfinished
        assert len(list(other.redis.scan_iter("gds:arriving:*"))) == 0


def test_what_goes_while_it_is_read_is_left_out() -> None:
    """A snapshot that expires in the middle leaves nothing behind; the file is whole."""
    file = io.BytesIO()
    writer = Writer(file)
    assert writer.add({"kind": "value"}, 2, [b"ab"])
    assert not writer.add({"kind": "value"}, 9, [b"abc", b""])
    assert writer.add({"kind": "value"}, 1, [b"c"])
    writer.close()
    assert check(file) == 2
    assert [entry.read() for entry in entries(file)] == [b"ab", b"c", b""]


OTHER = "f" * 32


@pytest.mark.parametrize("name", [
    keys.job(OTHER), keys.snapshot("local", SNAPSHOT), keys.batch("local", "batch_x"), keys.idempotency("local", "k"),
    keys.WEIGHTS, keys.COUNTERS, keys.FINISHED, keys.QUARANTINE, keys.RECENT, keys.BLOB_SIZES,
])  # fmt: skip
def test_what_has_another_type_is_left_out_and_named(
    store: Store, other: Store, filled: dict[str, jobs.Job], name: str
) -> None:
    """Nothing that somebody else has written under a pool's names keeps all the rest from being backed up."""
    store.redis.delete(name)
    store.redis.zadd(name, {OTHER: 0})
    file = io.BytesIO()
    with structlog.testing.capture_logs() as logs:
        kept = take(store, file)
    assert [line["name"] for line in logs if line["event"].startswith("left out of the backup")] in ([name], [name] * 2)
    assert (kept.jobs, kept.unfinished, kept.snapshots, kept.left_out) == (6, 4, 1, 1)
    restore(other, file)
    assert all(other.jobs.get(job.id) is not None for job in filled.values())


@pytest.mark.parametrize("name", [keys.log, keys.log_places, keys.events, keys.result, keys.incumbent])
def test_a_job_is_kept_without_what_belongs_to_it_in_another_type(
    store: Store, other: Store, filled: dict[str, jobs.Job], name: Callable[[str], str]
) -> None:
    """The record, and all else that can be read, is there again."""
    for job in filled.values():
        store.redis.delete(name(job.id))
        store.redis.zadd(name(job.id), {"x": 0})
    restore(other, backed_up(store))
    assert all(other.jobs.get(job.id) is not None for job in filled.values())


def test_names_that_are_no_text_are_passed_over(store: Store, other: Store, filled: dict[str, jobs.Job]) -> None:
    """Among keys and within hashes."""
    for pattern in ("job:%s", "snapshot:local:%s", "batch:local:%s", "idempotency:local:%s"):
        store.redis.set(b"gds:" + pattern.encode() % b"\xff", b"\xff")
    store.redis.hset(keys.API_KEYS, b"\xff", b"\xff")
    assert restore(other, backed_up(store)).jobs == 6
    assert all(other.jobs.get(job.id) is not None for job in filled.values())


def test_a_file_names_nothing_that_a_pool_does_not_keep(other: Store) -> None:
    """Even with a right checksum it cannot write anywhere else, such as among Celery's things."""
    file = io.BytesIO()
    writer = Writer(file)
    writer.add({"kind": "value", "name": "gds:mode", "ttl": None, "owner": ""}, 1, [b"x"])
    writer.close()
    with pytest.raises(BackupError, match="nothing that a pool keeps"):
        restore(other, file)


@pytest.mark.usefixtures("filled")
def test_the_commands_say_what_they_did(redis_url: str, other: Store, tmp_path: Path) -> None:
    """The file is its user's alone; a Redis that is not empty ends `restore` with one line."""
    file, there = tmp_path / "pool.backup", ["--redis-url", f"{redis_url}?db=1"]
    said = CliRunner().invoke(app, ["backup", str(file), "--redis-url", redis_url])
    assert "6 jobs (4 of them unfinished), 1 snapshots and 1 keys" in said.output
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
    said = CliRunner().invoke(app, ["restore", str(file), *there])
    assert "6 jobs (4 of them queued), 1 snapshots and 1 keys are back" in said.output
    said = CliRunner().invoke(app, ["restore", str(file), *there])
    assert (said.exit_code, "not empty" in said.output) == (1, True)
    said = CliRunner().invoke(app, ["restore", str(tmp_path / "none"), *there])
    assert (said.exit_code, said.output.count("\n")) == (1, 1)
    said = CliRunner().invoke(app, ["backup", str(tmp_path), "--redis-url", redis_url])
    assert (said.exit_code, "name a file for the backup" in said.output) == (1, True)
    structlog.reset_defaults()
    assert isinstance(_found(other, other.jobs.recent(1)[0]).spec, JobSpec)
