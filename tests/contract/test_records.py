"""What may be in a record, and what a bad one costs: nothing for anybody but its own job."""

import json
import math
from functools import partial
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from shared.contracts import Feedback, JobResult, State
from solver_service.gateway.app import create_app
from solver_service.gateway.services import Services
from solver_service.pool.status import look
from solver_service.reaper import Reaper, sweep
from solver_service.rules import jobs
from solver_service.rules.metrics import counted
from solver_service.rules.numbers import MOST, clamped, finite
from solver_service.settings import Settings
from solver_service.store import Store, keys
from solver_service.store.records import decode, encode
from tests.contract.test_store import add, claim
from tests.unit.service.test_jobs import PROGRESS, RESULT, queued, running

LOCAL = "http://127.0.0.1"


def ending(**values: float) -> JobResult:
    """A result with other values of its objective."""
    return RESULT.model_copy(update={"objective": RESULT.objective.model_copy(update=values)})


def finish(store: Store, job: jobs.Job, result: JobResult = RESULT) -> jobs.Job | None:
    transition = partial(jobs.finish, result=result, attempt=1, now=store.jobs.now())
    return store.jobs.update(job.id, transition, result=b"weights")


def rewrite(store: Store, job: jobs.Job, change: dict[str, Any]) -> None:
    """Put other fields into a stored record, as another release might."""
    known = json.loads(store.redis.get(keys.job(job.id)) or b"")
    store.redis.set(keys.job(job.id), json.dumps({**known, **change}))


# --- nothing but finite numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_result_that_is_not_finite_fails_its_job(store: Store, value: float) -> None:
    """It cannot be told as JSON: the job fails with a clear code, keeps no weights, and counts as failed alone."""
    job = add(store)
    claim(store, job)
    done = finish(store, job, ending(final=value))
    assert done is not None
    assert done.error is not None
    assert (done.state, done.error.code, done.result) == (State.FAILED, "not_finite", None)
    assert store.jobs.get(job.id) == done
    assert store.blobs.result(job.id) is None
    assert store.jobs.counts()["failed"] == 1
    assert all(map(math.isfinite, store.jobs.counters().values()))
    assert store.jobs.running() == []


def test_progress_that_is_not_finite_is_not_told(store: Store) -> None:
    """The record stays as it was, and readable."""
    job = add(store)
    claim(store, job)
    report = partial(jobs.report, progress=PROGRESS.model_copy(update={"objective": math.inf}), attempt=1)
    assert store.jobs.update(job.id, report) is None
    found = store.jobs.get(job.id)
    assert found is not None
    assert found.progress is None


def test_no_other_way_leads_a_number_that_is_not_finite_into_a_record() -> None:
    """Whatever a transition forgot: what is written is checked as a whole."""
    job = running().model_copy(update={"result": ending(bound=math.nan)})
    with pytest.raises(Exception, match="result is not finite"):
        encode(job)


@pytest.mark.parametrize("steps", [10**308, 10**400])
def test_a_verdict_with_a_huge_staleness_is_refused(store: Store, steps: int) -> None:
    """More steps than a float64 can count are no number of steps."""
    with pytest.raises(ValueError, match="staleness_steps"):
        Feedback(accepted=True, staleness_steps=steps)
    with TestClient(create_app(Services(store, Settings())), base_url=LOCAL) as client:
        body = json.dumps({"accepted": True}).replace("}", f', "staleness_steps": {steps}}}')
        headers = {"content-type": "application/json"}
        answer = client.post(f"/v1/jobs/{'a' * 32}/feedback", content=body, headers=headers)
        assert answer.status_code == 422
        spec = '{"objective": "ramp", "radius": 1, "solver": {"params": {"x": 1e999}}}'
        assert client.post("/v1/jobs", content=spec, headers=headers).status_code == 422


@given(st.floats(), st.floats())
def test_no_amount_of_a_counter_overflows(start: float, final: float) -> None:
    """Whatever a result holds, what it adds is finite, and small enough never to fill a counter."""
    done = running().model_copy(update={"state": State.SUCCEEDED, "result": ending(start=start, final=final)})
    assert all(math.isfinite(amount) and abs(amount) <= MOST for amount in counted(running(), done).values())
    assert finite(clamped(start))


def test_a_commit_is_whole_whatever_counter_is_full(store: Store) -> None:
    """Counters that overflow, or hold no number, begin anew; the record and every index are written all the same."""
    job = add(store)
    for name, value in {"attempts|": "1.7e308", "gained|ramp": "inf", "finished|succeeded": "spoilt"}.items():
        store.redis.hset(keys.COUNTERS, name, value)
    store.redis.hset(keys.COUNTERS, "lost|", "inf")
    claim(store, job)
    done = finish(store, job)
    assert done is not None
    assert store.jobs.running() == []
    assert store.redis.zcard(keys.RUNNING) == 0
    assert store.blobs.result(job.id) == b"weights"
    counters = store.jobs.counters()
    assert (counters["gained|ramp"], counters["finished|succeeded"]) == (1.0, 1.0)
    assert "lost|" not in counters


def test_a_commit_is_whole_whatever_index_is_spoilt(store: Store) -> None:
    """An index of the wrong type keeps neither the record nor the other indexes from being written."""
    job = add(store)
    store.redis.set(keys.HOLDING, "no hash")
    claim(store, job)
    found = store.jobs.get(job.id)
    assert found is not None
    assert found.state is State.RUNNING
    assert store.redis.zscore(keys.RUNNING, job.id) is not None
    assert store.redis.zscore(keys.QUEUED, job.id) is None


# --- records of other releases, and bad ones --------------------------------------------------------------------------

UNKNOWN: dict[str, Any] = {"new": {"deep": [1]}}


def test_a_record_of_a_newer_release_is_read(store: Store) -> None:
    """Fields that this release does not know are ignored, at every depth; a rolled-back pool goes on with its jobs."""
    job = add(store)
    claimed = claim(store, job)
    assert claimed is not None
    found = json.loads(encode(claimed))
    spec = {**found["spec"], **UNKNOWN, "limits": {**found["spec"]["limits"], **UNKNOWN}}
    rewrite(store, job, {**UNKNOWN, "version": 99, "spec": spec})
    assert store.jobs.get(job.id) == claimed
    sweep(store, silent=[job.id])
    back = store.jobs.get(job.id)
    assert back is not None
    assert (back.state, back.lost) == (State.QUEUED, 1)


def test_a_record_of_the_last_release_is_read(store: Store) -> None:
    """It has no version and no claim; both ways lead through this release and back."""
    job = queued()
    old = json.loads(encode(job))
    for name in ("version", "claim"):
        del old[name]
    assert decode(json.dumps(old)) == job
    assert json.loads(encode(job))["version"] == 1


BAD: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'{"id": 3}',
    b'{"version": 2, "state": "dreaming"}',
    b"9" * 5000,
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_record_that_cannot_be_read_stops_nobody_else(store: Store, bad: bytes, state: str) -> None:
    """It is set aside with its id, out of every index, and counted; reaper, lists, status and metrics go on."""
    spoilt, other = add(store, run="r"), add(store, run="r")
    if state == "running":
        claim(store, spoilt)
    claim(store, other)
    store.redis.set(keys.job(spoilt.id), bad)
    store.workers.beat("w", host="h", pid=1, slots=4)
    sweep(store, silent=[spoilt.id, other.id], forgotten=[spoilt.id])
    assert [job.id for job in store.jobs.page("local", run=None, state=None, limit=9, cursor=None)[0]] == [other.id]
    found = store.jobs.get(other.id)
    assert found is not None
    assert found.state is State.QUEUED
    assert look(store).running == []
    assert store.redis.hget(keys.QUARANTINE, spoilt.id) == bad.decode(errors="replace").encode()
    for index in (keys.QUEUED, keys.RUNNING, keys.EXPIRING, keys.waiting("normal")):
        assert store.redis.zscore(index, spoilt.id) is None
    assert store.jobs.counters()["quarantined|"] == 1
    assert store.turns.pick() == other.id
    with TestClient(create_app(Services(store, Settings())), base_url=LOCAL) as client:
        assert client.get(f"/v1/jobs/{spoilt.id}").status_code == 410
        assert client.get(f"/v1/jobs/{spoilt.id}").json()["code"] == "gone"
        for path in ("/v1/jobs", "/v1/workers", "/v1/stats", "/metrics", f"/v1/jobs/{other.id}"):
            assert client.get(path).status_code == 200, path
        assert "gdsolver_records_quarantined_total 1.0" in client.get("/metrics").text


def test_a_bad_records_owner_is_told_apart_where_it_can_be(store: Store) -> None:
    """A record that says whose it is leaves that owner's lists and limits, too."""
    job = add(store, run="r", owner="alice")
    rewrite(store, job, {"state": "dreaming"})
    assert store.jobs.get(job.id) is None
    for name in (keys.unfinished("alice"), keys.active("alice", "r")):
        assert store.redis.scard(name) == 0
    for name in (keys.jobs("alice"), keys.jobs("alice", "r"), keys.turns("alice")):
        assert store.redis.zcard(name) == 0


def test_a_record_comes_back_when_a_release_can_read_it(store: Store) -> None:
    """After a rollback and the next upgrade, a job that the old release did not understand goes on."""
    job = add(store)
    record = store.redis.get(keys.job(job.id))
    rewrite(store, job, {"state": "dreaming"})
    assert store.jobs.get(job.id) is None
    assert record is not None
    store.redis.hset(keys.QUARANTINE, job.id, record)
    Reaper(store, republish_s=10, lease_s=10).round()
    assert store.jobs.get(job.id) == job
    assert store.turns.pick() == job.id
    assert store.redis.hlen(keys.QUARANTINE) == 0


def test_an_index_that_lies_is_put_right(store: Store) -> None:
    """A half-written commit of an earlier release left a finished job among the running: it is taken out, once."""
    job = add(store)
    claim(store, job)
    finish(store, job)
    store.redis.zadd(keys.RUNNING, {job.id: 1.0, "f" * 32: 1.0})
    assert store.jobs.running() == []
    assert store.redis.zcard(keys.RUNNING) == 0


def test_a_bad_heartbeat_hides_no_other_worker(store: Store) -> None:
    """Nor does an idempotency key whose note cannot be read stop a submission."""
    store.workers.beat("good", host="h", pid=1, slots=1)
    store.redis.set(keys.worker("bad"), "{")
    store.redis.zadd(keys.WORKERS, {"bad": 0})
    assert [worker.name for worker in store.workers.alive()] == ["good"]
    store.redis.set(keys.idempotency("local", "k"), "{")
    assert add(store, token="k") == add(store, token="k")


def test_a_full_redis_lets_accepted_jobs_go_on(store: Store) -> None:
    """Claims, renewals, losses, cancels, heartbeats and wake-ups need no room; results wait for it."""
    first, second, third = add(store), add(store), add(store)
    store.redis.config_set("maxmemory", "1")
    try:
        assert store.turns.pick() == first.id
        claimed = claim(store, first)
        assert claimed is not None
        assert store.jobs.renew(first.id, 1)
        store.workers.beat("w", host="h", pid=1, slots=1)
        assert store.reaper.hold()
        with pytest.raises(Exception, match="OOM"):
            finish(store, first)
        assert store.jobs.get(first.id) == claimed
        cancelled = store.jobs.update(second.id, partial(jobs.cancel, now=store.jobs.now()))
        assert cancelled is not None
        assert cancelled.state is State.CANCELLED
        store.jobs.send_again(third)
        sweep(store, silent=[first.id])
        back = store.jobs.get(first.id)
        assert back is not None
        assert back.state is State.QUEUED
    finally:
        store.redis.config_set("maxmemory", "0")
    assert isinstance(store.redis, redis.Redis)
    claim(store, first)
    again = partial(jobs.finish, result=RESULT, attempt=2, now=store.jobs.now())
    assert store.jobs.update(first.id, again, result=b"weights") is not None
    assert store.blobs.result(first.id) == b"weights"
