"""Redis does one command at a time: no value of any size goes to it, or comes from it, in one that takes long."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis

from solver_service.backup.take import take
from solver_service.rules import jobs
from solver_service.store import Store, keys
from solver_service.store.pieces import PIECE_BYTES, hand_over, whole
from solver_service.store.reading import AT_ONCE, MAX_CALL_BYTES, MAX_PAGE_BYTES
from tests.contract.test_store import SPEC, add, claim
from tests.unit.service.test_jobs import RESULT

LARGE = bytes(range(256)) * 5000
OWNER, SNAPSHOT = "local", "a" * 64


class Wire:
    """The longest part of any command, the longest answer to one, and how many commands there were."""

    def __init__(self) -> None:
        self.sent = self.got = 0

    def note(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Look at all that every client sends and gets from now on."""
        kind = redis.connection.AbstractConnection
        read, packed, many = kind.read_response, kind.pack_command, kind.pack_commands

        def read_response(connection: Any, *args: Any, **options: Any) -> Any:
            answer = read(connection, *args, **options)
            self.got = max(self.got, _size(answer))
            return answer

        def pack_command(connection: Any, *args: Any) -> Any:
            self.sent = max(self.sent, *map(_size, args))
            return packed(connection, *args)

        def pack_commands(connection: Any, commands: Any) -> Any:
            listed = list(commands)
            self.sent = max(self.sent, *(_size(part) for command in listed for part in command))
            return many(connection, listed)

        monkeypatch.setattr(kind, "read_response", read_response)
        monkeypatch.setattr(kind, "pack_command", pack_command)
        monkeypatch.setattr(kind, "pack_commands", pack_commands)


@pytest.fixture
def wire(store: Store, monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    made.note(monkeypatch)
    store.ping()
    assert made.got > 0
    return made


def _size(part: Any) -> int:
    if isinstance(part, list | tuple):
        return sum(map(_size, part))
    return part.nbytes if isinstance(part, memoryview) else len(part) if isinstance(part, bytes | str) else 1


def running(store: Store) -> jobs.Job:
    held = claim(store, add(store, owner=OWNER))
    assert held is not None
    return held


def as_snapshot(store: Store) -> bytes | None:
    assert store.blobs.put_snapshot(OWNER, SNAPSHOT, LARGE)
    return store.blobs.snapshot(OWNER, SNAPSHOT)


def as_result(store: Store) -> bytes | None:
    job = running(store)
    done = store.jobs.update(job.id, partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now()), result=LARGE)
    assert done is not None
    assert 0 < store.redis.ttl(keys.result(job.id)) <= store.jobs.keep_blob_s
    return store.blobs.result(job.id)


def as_incumbent(store: Store) -> bytes | None:
    job = running(store)
    assert store.blobs.put_incumbent(job.id, 1, LARGE)
    assert not store.blobs.put_incumbent(job.id, 2, LARGE[::-1])
    assert 0 < store.redis.ttl(keys.incumbent(job.id)) <= store.blobs.keep_s
    return store.blobs.incumbent(job.id)


def as_model(store: Store) -> bytes | None:
    job = running(store)
    store.models.put(job, LARGE)
    assert store.redis.ttl(keys.model(job.id)) > 0
    return store.models.get(job.id)


@pytest.mark.parametrize("way", [as_snapshot, as_result, as_incumbent, as_model])
def test_a_large_value_goes_and_comes_in_pieces(store: Store, wire: Wire, way: Callable[[Store], bytes | None]) -> None:
    """Whole, with its life, and nothing of the pieces is left."""
    assert way(store) == LARGE
    assert max(wire.sent, wire.got) <= PIECE_BYTES
    assert store.redis.keys(keys.arriving("*")) == []


def test_a_backup_is_taken_in_pieces(store: Store, wire: Wire) -> None:
    """Incumbents, too, which another one may replace at any time."""
    as_snapshot(store)
    as_result(store)
    as_incumbent(store)
    take(store, io.BytesIO())
    assert wire.got <= PIECE_BYTES


def test_a_result_that_comes_too_late_leaves_nothing(store: Store) -> None:
    """The job was taken away before: neither a result nor the pieces of one are kept."""
    job = running(store)
    seen = store.jobs.get(job.id)
    store.jobs.update(job.id, partial(jobs.cancel, now=store.jobs.now()))
    store.jobs.update(job.id, partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now()))
    finish = partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now())
    assert store.jobs.update(job.id, finish, result=LARGE, seen=seen) is None
    assert store.blobs.result(job.id) is None
    assert store.redis.keys(keys.arriving("*")) == []


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES])
def test_a_value_of_any_size_is_read_whole(store: Store, size: int) -> None:
    """Also where it ends with a piece; where there is none, there is nothing."""
    name = hand_over(store.redis, LARGE[:size])
    assert whole(store.redis, name) == (LARGE[:size] or None)


def test_a_value_that_is_replaced_while_it_is_read_is_not_mixed_with_the_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read again, and is of one moment."""
    store.redis.set("gds:x", LARGE)
    other, pipeline = LARGE[::-1], redis.client.Pipeline
    read, looks = pipeline.getrange, []

    def getrange(pipe: Any, name: str, begin: int, end: int) -> Any:
        looks.append(begin)
        if len(looks) == 3:
            store.redis.set("gds:x", other)
        return read(pipe, name, begin, end)

    monkeypatch.setattr(pipeline, "getrange", getrange)
    assert whole(store.redis, "gds:x") == other
    assert looks.count(0) == 2


def large_jobs(store: Store, number: int) -> list[str]:
    """Jobs with records of about 10 kB."""
    spec = SPEC.model_copy(update={"tags": {f"{n}": "x" * 200 for n in range(49)}})
    made = (jobs.create(spec, snapshot=SNAPSHOT, owner=OWNER, now=store.jobs.now()) for _ in range(number))
    return [store.jobs.add(job)[0].id for job in made]


def test_records_are_fetched_a_few_at_a_time(store: Store, wire: Wire) -> None:
    """However many are asked for: no answer holds more than so many of them."""
    ids = large_jobs(store, 4 * AT_ONCE)
    record = len(store.jobs.records.raw(ids[0]) or b"")
    wire.got = 0
    assert [job.id for job in store.jobs.get_many(ids) if job] == ids
    assert wire.got <= 1.1 * AT_ONCE * record


def test_no_more_records_are_read_than_a_page_holds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page has no room for is not decoded; nor is more than so much that is not of the state asked for."""
    ids = large_jobs(store, 500)
    read: list[int] = []
    decode = type(store.jobs.records).read

    def counted(records: Any, job_id: str, data: bytes | None) -> jobs.Job | None:
        read.append(len(data or b""))
        return decode(records, job_id, data)

    monkeypatch.setattr(type(store.jobs.records), "read", counted)
    found, cursor = store.jobs.page(OWNER, run=None, state=None, limit=200, cursor=None)
    assert [job.id for job in found] == sorted(ids, reverse=True)[: len(found)]
    assert cursor == found[-1].id
    assert len(read) == len(found) > 1
    assert sum(read[:-1]) <= MAX_PAGE_BYTES < sum(read)
    read.clear()
    found, cursor = store.jobs.page(OWNER, run=None, state=jobs.State.FAILED, limit=200, cursor=None)
    assert (found, cursor is not None) == ([], True)
    assert sum(read[:-1]) <= MAX_CALL_BYTES < sum(read)
