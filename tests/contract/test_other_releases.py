"""A Redis as an earlier release left it, key by key: whatever it holds is read, served, and solved to its end.

The file was written by the store of that day, with one job in each state. It knows no versions, claims, turns, events,
batches or logs, and its results say nothing of being feasible.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.contracts import Feedback, State
from solver_service.gateway.app import create_app
from solver_service.gateway.services import Services
from solver_service.reaper import sweep
from solver_service.rules import jobs
from solver_service.settings import Settings
from solver_service.store import Store, keys
from tests.conftest import ROOT
from tests.unit.service.test_jobs import RESULT

RELEASE: dict[str, Any] = json.loads((ROOT / "tests/contract/releases/2026-11-24.json").read_text())
IDS: dict[str, str] = RELEASE["jobs"]
UNKNOWN = {"a_later_field": {"deep": [1, None]}}


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    opened = Store.open(Settings(redis_url=redis_url))
    opened.redis.flushall()
    for name, kept in RELEASE["keys"].items():
        _write(opened, name, kept["type"], kept["value"])
    yield opened
    opened.redis.flushall()
    opened.close()


def _write(store: Store, name: str, kind: str, value: Any) -> None:
    match kind:
        case "string":
            store.redis.set(name, value.encode("latin-1"))
        case "set":
            store.redis.sadd(name, *value)
        case "zset":
            store.redis.zadd(name, dict(value))
        case _:
            store.redis.hset(name, mapping=value)


def test_every_record_is_served(store: Store) -> None:
    """By its id, in the list and in the numbers, with what it said then and today's defaults for the rest."""
    with TestClient(create_app(Services(store, Settings())), base_url="http://127.0.0.1") as client:
        for state, job_id in IDS.items():
            found = client.get(f"/v1/jobs/{job_id}").json()
            assert (found["state"], found["tags"], found["batch"]) == (state, {"who": "me"}, None)
        listed = client.get("/v1/jobs").json()["jobs"]
        done = client.get(f"/v1/jobs/{IDS['succeeded']}").json()
        assert client.get("/metrics").status_code == 200
        assert client.get(f"/v1/jobs/{IDS['failed']}").json()["error"]["code"] == "solver_error"
    assert {job["id"] for job in listed} == set(IDS.values())
    assert (done["result"]["feasible"], done["result"]["suspects"], done["feedback"]["metric"]) == (True, [], "loss")
    assert store.blobs.result(IDS["succeeded"]) == b"weights"
    assert store.jobs.counts() == {**dict.fromkeys(map(str, State), 1), "expired": 0}
    assert store.quarantined() == 0


def test_unfinished_jobs_go_on(store: Store) -> None:
    """The one that waits gets a turn; the one whose worker went with its release comes back with its incumbent."""
    store.workers.beat("w2", host="h", pid=1, slots=4)
    sweep(store, silent=[IDS["running"]], forgotten=[IDS["queued"]])
    assert [store.turns.pick() for _ in range(3)] == [IDS["running"], IDS["queued"], None]
    assert store.blobs.incumbent(IDS["running"]) == b"incumbent"
    for name, attempt in (("running", 2), ("queued", 1)):
        job = store.jobs.get(IDS[name])
        assert job is not None
        now = job.created + 1
        claimed = store.jobs.update(job.id, partial(jobs.claim, worker="w2", token="w2:1:1", now=now))
        assert claimed is not None
        assert (claimed.state, claimed.attempt) == (State.RUNNING, attempt)
        finish = partial(jobs.finish, result=RESULT, attempt=attempt, now=now)
        done = store.jobs.update(job.id, finish, result=b"weights")
        assert done is not None
        assert done.state is State.SUCCEEDED
    assert store.jobs.active("local", "r") == []


@pytest.mark.parametrize("state", IDS)
def test_fields_of_a_later_release_hide_no_record(store: Store, state: str) -> None:
    """At any depth, in a job of any state: it is served without them, and goes on."""
    name = keys.job(IDS[state])
    known = json.loads(store.redis.get(name) or b"")
    before = store.jobs.get(IDS[state])
    for part in [known, known["spec"], known["spec"]["limits"], *filter(None, (known["result"], known["progress"]))]:
        part.update(UNKNOWN)
    store.redis.set(name, json.dumps({**known, "version": 2}))
    with TestClient(create_app(Services(store, Settings())), base_url="http://127.0.0.1") as client:
        assert client.get(f"/v1/jobs/{IDS[state]}").json()["state"] == state
    assert store.jobs.get(IDS[state]) == before
    change = {"queued": partial(jobs.cancel, now=0.0), "running": partial(jobs.cancel, now=0.0), "succeeded": _judged}
    assert store.jobs.update(IDS[state], change.get(state, _retagged)) is not None
    assert store.quarantined() == 0


def _judged(job: jobs.Job) -> jobs.Job | None:
    return jobs.judge(job, Feedback(accepted=False))


def _retagged(job: jobs.Job) -> jobs.Job:
    return job.model_copy(update={"tags": {}})
