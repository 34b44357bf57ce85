"""What nobody should have written into a pool's Redis stops nobody: pages, commands and the reaper go on around it."""

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import structlog
from starlette.testclient import TestClient
from typer.testing import CliRunner

from shared.contracts import State
from solver_service.backup.take import take
from solver_service.cli import app
from solver_service.gateway.app import create_app
from solver_service.gateway.services import Services
from solver_service.pool.status import look, render
from solver_service.purge import cancel_all, purge, wake
from solver_service.reaper import Reaper
from solver_service.rules import jobs
from solver_service.rules.batches import create as create_batch
from solver_service.rules.owners import KEYLESS_OWNER, Scope, create_key
from solver_service.settings import Settings
from solver_service.store import Store, keys
from solver_service.store.leases import ReaperLease
from tests.conftest import small_snapshot
from tests.contract.test_records import rewrite
from tests.contract.test_store import SPEC, add, claim

Spoil = Callable[[redis.Redis], object]
LOCAL = "http://127.0.0.1"
NOBODY = "f" * 32
MEMBERS: list[bytes] = [b"\xff\xfe", b"", b"zz", b"\x00", NOBODY.encode(), "\u20ac".encode()]
NUMBERS: list[str] = ["abc", "", "1e5", "1e400", "nan", "9" * 30, "-3"]


def member(index: str, value: bytes) -> Spoil:
    """Put a member into an index, before all others; there may be a record of that name, which is no text."""

    def spoil(client: redis.Redis) -> None:
        client.rpush(b"gds:job:" + value, "x")
        if index == keys.RECENT:
            client.lpush(index, value)
        elif index == keys.unfinished(KEYLESS_OWNER):
            client.sadd(index, value)
        else:
            client.zadd(index, {value: 0})

    return spoil


def field(name: str, at: str | bytes, value: str | bytes) -> Spoil:
    return lambda client: client.hset(name, at, value)  # type: ignore[arg-type]


def expired_with(told: str) -> Spoil:
    """Something that has expired, of which the sums tell this."""
    return lambda client: (client.zadd(keys.BLOB_ENDS, {"gds:x": 1}), client.hset(keys.BLOB_SIZES, "gds:x", told))


INDEXES = [
    keys.EXPIRING, keys.RUNNING, keys.QUEUED, keys.WORKERS, keys.jobs(KEYLESS_OWNER), keys.RECENT, keys.PASSES,
    keys.HANDED_ON, keys.turns(KEYLESS_OWNER), keys.unfinished(KEYLESS_OWNER), keys.waiting("normal"),
]  # fmt: skip
SPOILS: list[tuple[str, Spoil]] = [
    *((f"{index} {value!r}", member(index, value)) for index in INDEXES for value in MEMBERS),
    *((f"finished {value[:9]}", field(keys.FINISHED, "succeeded", value)) for value in NUMBERS),
    *((f"{who} bytes {value[:9]}", field(keys.BYTES, who, value)) for who in ("local", "*") for value in NUMBERS[:-1]),
    *((f"size {told[:9]}", expired_with(told)) for told in ("abc", "", "9" * 30 + " local", "-1 local", "1")),
    ("a state", field(keys.FINISHED, b"\xff", "1")),
    ("a counter", field(keys.COUNTERS, b"\xff", "1")),
    ("a weight", field(keys.WEIGHTS, b"\xff", "x")),
    ("set aside", field(keys.QUARANTINE, b"\xff", b"\xff")),
    ("a reaper", lambda client: client.set(keys.REAPER, b"\xff", px=1)),
    ("a bucket", field(keys.rate(KEYLESS_OWNER), "tokens", "x")),
    ("turns", lambda client: (client.zadd(keys.PASSES, {"x": -1}), client.set(keys.turns("x"), "no set"))),
    ("half a name", lambda client: client.set(keys.job(NOBODY), '{"owner": "\\ud800", "spec": {"run": "\\ud800"}}')),
]


def spoilt(store: Store, spoil: Spoil) -> tuple[jobs.Job, jobs.Job]:
    """A pool with a running and a queued job and a worker, in which something is as nobody has written it."""
    running, waiting = add(store), add(store)
    assert store.turns.pick() == running.id
    assert claim(store, running) is not None
    store.workers.beat("good", host="h", pid=1, slots=1)
    spoil(store.redis)
    return running, waiting


def state(store: Store, job: jobs.Job) -> State:
    found = store.jobs.get(job.id)
    assert found is not None
    return found.state


def assert_reaped(store: Store, running: jobs.Job, waiting: jobs.Job) -> None:
    """The reaper takes the lost job back, sends it again, and ends the one that has waited for too long."""
    now = 0.0
    reaper = Reaper(store, republish_s=2, lease_s=2, clock=lambda: now)
    store.redis.zadd(keys.EXPIRING, {waiting.id: 1})
    rewrite(store, waiting, {"created": 1.0})
    for _ in range(9):
        reaper.round()
        now += 1
    assert state(store, running) is State.QUEUED
    assert state(store, waiting) is State.EXPIRED


@pytest.mark.parametrize(("name", "spoil"), SPOILS, ids=[name for name, _ in SPOILS])
def test_pages_commands_and_the_reaper_go_on(store: Store, name: str, spoil: Spoil) -> None:
    """Every page is there, every command ends, a job is taken, had its turn and is reaped."""
    running, waiting = spoilt(store, spoil)
    with TestClient(create_app(Services(store, Settings())), base_url=LOCAL, raise_server_exceptions=False) as client:
        paths = ["/v1/jobs", "/v1/workers", "/v1/stats", "/metrics", f"/v1/jobs/{running.id}"]
        assert {path: client.get(path).status_code for path in paths} == dict.fromkeys(paths, 200)
        assert {job["id"] for job in client.get("/v1/jobs").json()["jobs"]} == {running.id, waiting.id}
        tensors = {one: array.tolist() for one, array in small_snapshot().tensors().items()}
        spec = {"objective": "ramp", "radius": 1, "snapshot": {"task": "classification", "tensors": tensors}}
        made = client.post("/v1/jobs", json=spec)
        assert made.status_code == 202, made.text
    render(look(store))
    take(store, io.BytesIO())
    store.limits.admit("somebody")
    store.logs.append(running.model_copy(update={"attempt": 1}), "text")
    assert_reaped(store, running, waiting)
    picked = [store.turns.pick() for _ in range(6)]
    assert {running.id, made.json()["id"]} <= set(picked)
    wake(store)
    assert cancel_all(store, KEYLESS_OWNER) == 2
    purge(store, KEYLESS_OWNER)
    assert store.jobs.page(KEYLESS_OWNER, run=None, state=None, limit=9, cursor=None) == ([], None)


@pytest.mark.parametrize("spoilt_key", [keys.EXPIRING, keys.QUEUED, keys.WORKERS, keys.QUARANTINE])
def test_a_part_of_a_round_that_fails_takes_no_other_along(store: Store, spoilt_key: str) -> None:
    """Even an index that is none keeps nobody's lost worker from being noticed."""
    running, _ = spoilt(store, lambda client: client.delete(spoilt_key) and client.set(spoilt_key, "no index"))
    store.redis.set(spoilt_key, "no index")
    now = 0.0
    reaper = Reaper(store, republish_s=2, lease_s=2, clock=lambda: now)
    for _ in range(5):
        reaper.round()
        now += 1
    assert state(store, running) is State.QUEUED


def test_a_reapers_sign_that_cannot_be_read_is_taken_over(store: Store) -> None:
    """As any sign that does not change for the lease's whole life."""
    store.redis.set(keys.REAPER, b"\xff\xfe")
    now = 0.0
    lease = ReaperLease(store.redis, "mine", clock=lambda: now)
    assert not lease.hold()
    now = 6.0
    assert lease.hold()


def test_many_members_that_are_none_hide_nobody(store: Store) -> None:
    """A whole page of them, and more than a look takes, are read past: listing and expiry find what is behind."""
    job = add(store)
    foreign = {b"\xff%d" % number: 0 for number in range(1500)}
    for index in (keys.jobs(KEYLESS_OWNER), keys.EXPIRING, keys.QUEUED, keys.RUNNING):
        store.redis.zadd(index, foreign)
    found, _ = store.jobs.page(KEYLESS_OWNER, run=None, state=None, limit=9, cursor=None)
    for _ in range(2):
        store.jobs.overdue()
        store.jobs.sent()
    again, cursor = store.jobs.page(KEYLESS_OWNER, run=None, state=None, limit=9, cursor=None)
    assert [one.id for one in (found or again)] == [job.id]
    assert cursor is None
    assert store.redis.zcard(keys.EXPIRING) == 1
    assert job.id in store.jobs.sent()


TIMES: list[str] = ["1e300", "-1e15", "253402300800", "-1", "NaN", "Infinity", "1e999", "9" * 400, "true", '"x"', "{}"]


@pytest.mark.parametrize("value", TIMES)
@pytest.mark.parametrize("name", ["created", "queued_at", "started", "finished"])
def test_a_time_that_is_none_makes_a_record_unreadable(store: Store, name: str, value: str) -> None:
    """It is set aside where it is read, and every page of its owner goes on without it."""
    other, job = add(store), add(store)
    known = json.loads(store.redis.get(keys.job(job.id)) or b"")
    store.redis.set(keys.job(job.id), json.dumps({**known, name: "@"}).replace('"@"', value))
    with TestClient(create_app(Services(store, Settings())), base_url=LOCAL, raise_server_exceptions=False) as client:
        answer = client.get("/v1/jobs")
        assert answer.status_code == 200, answer.text
        if value != "true":  # which is 1, as it is for Python
            assert [one["id"] for one in answer.json()["jobs"]] == [other.id]
            assert client.get(f"/v1/jobs/{job.id}").status_code == 410
    render(look(store))


def test_a_batch_of_no_time_is_none(store: Store) -> None:
    """It is not found, as one whose record cannot be read."""
    batch, members = create_batch([SPEC], snapshot="a" * 64, owner=KEYLESS_OWNER, now=store.jobs.now())
    store.batches.add(batch, members)
    name = keys.batch(KEYLESS_OWNER, batch.id)
    store.redis.set(name, batch.model_copy(update={"created": 1e300}).model_dump_json())
    with TestClient(create_app(Services(store, Settings())), base_url=LOCAL, raise_server_exceptions=False) as client:
        assert client.get(f"/v1/batches/{batch.id}").status_code == 404


def test_a_job_that_cannot_be_shown_hides_no_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is about it: the page has all others."""
    good, bad = add(store), add(store)
    status = jobs.Job.status

    def told(job: jobs.Job) -> Any:
        if job.id == bad.id:
            raise OverflowError("timestamp out of range")
        return status(job)

    monkeypatch.setattr(jobs.Job, "status", told)
    with TestClient(create_app(Services(store, Settings())), base_url=LOCAL, raise_server_exceptions=False) as client:
        assert [one["id"] for one in client.get("/v1/jobs").json()["jobs"]] == [good.id]


@pytest.mark.parametrize("change", [b"\xff", b"{", b"[]", {"created": 1e300}, {"digest": "\u20ac"}, {"scopes": ["x"]}])
def test_an_api_key_that_cannot_be_read_opens_nothing(
    store: Store, redis_url: str, change: bytes | dict[str, Any]
) -> None:
    """It is passed over where keys are listed, whoever comes with it is a stranger, and all other keys open."""
    good, token = create_key("good", [Scope.SUBMIT], now=time.time())
    bad, bad_token = create_key("bad", [Scope.SUBMIT], now=time.time())
    store.apikeys.add(good)
    data = change if isinstance(change, bytes) else json.dumps({**json.loads(bad.model_dump_json()), **change}).encode()
    store.redis.hset(keys.API_KEYS, bad.id, data)
    store.redis.hset(keys.API_KEYS, b"\xff", b"{")
    with TestClient(create_app(Services(store, Settings())), base_url=LOCAL, raise_server_exceptions=False) as client:
        found = [client.get("/v1/jobs", headers={"authorization": f"Bearer {one}"}) for one in (token, bad_token)]
    assert [answer.status_code for answer in found] == [200, 401]
    said = CliRunner().invoke(app, ["keys", "list", "--redis-url", redis_url])
    structlog.reset_defaults()
    assert said.exit_code == 0, said.output
    assert good.id in said.output
