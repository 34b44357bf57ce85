"""Deleting: a snapshot that no job needs, and all that a key has made; the bytes are free at once."""

from collections.abc import Iterator
from functools import partial

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from solver_service.cli import app
from solver_service.purge import cancel_all, purge
from solver_service.rules import jobs
from solver_service.rules.owners import Scope, create_key
from solver_service.settings import Settings
from tests.conftest import small_snapshot
from tests.integration.test_gateway import SPEC, Gateway, assert_problem, finish, post, upload


@pytest.fixture
def gateway(redis_url: str) -> Iterator[Gateway]:
    made = Gateway(Settings(redis_url=redis_url))
    with made.client():
        yield made
    made.store.close()


def keyed(gateway: Gateway, name: str) -> tuple[TestClient, str]:
    key, token = create_key(name, [Scope.SUBMIT], now=gateway.store.jobs.now())
    gateway.store.apikeys.add(key)
    return gateway.client(headers={"authorization": f"Bearer {token}"}), key.owner


def test_a_snapshot_can_be_deleted_once_no_job_needs_it(gateway: Gateway) -> None:
    """409 while a job needs it, then 204 and its bytes are free, then 404; a job cannot name it any more."""
    alice, owner = keyed(gateway, "alice")
    bob, _ = keyed(gateway, "bob")
    snapshot = upload(alice)
    job = str(post(alice, {"snapshot": snapshot})["id"])
    path = f"/v1/snapshots/{snapshot}"
    assert_problem(bob.delete(path), 404, "not_found")
    assert_problem(alice.delete(path), 409, "not_finished")
    assert job in alice.delete(path).json()["detail"]
    finish(gateway, job)
    before, everyone = gateway.store.quota.used(owner)
    assert alice.delete(path).status_code == 204
    size = len(small_snapshot().to_bytes())
    assert gateway.store.quota.used(owner) == (before - size, everyone - size)
    assert_problem(alice.delete(path), 404, "not_found")
    assert_problem(alice.post("/v1/jobs", json={**SPEC, "snapshot": snapshot}), 404, "not_found")
    assert upload(alice) == snapshot


def test_a_purge_leaves_nothing_of_a_key_and_all_of_another(gateway: Gateway) -> None:
    """Its queued jobs end, its records, results and snapshots go, and so do the bytes it was counted."""
    store = gateway.store
    alice, owner = keyed(gateway, "alice")
    bob, _ = keyed(gateway, "bob")
    for client in (alice, bob):
        snapshot = upload(client)
        post(client, {"snapshot": snapshot, "run": "r"}, **{"Idempotency-Key": "k"})
        finish(gateway, str(post(client, {"snapshot": snapshot})["id"]))
    kept_by_bob = store.quota.used("")[1] - store.quota.used(owner)[0]
    found = purge(store, owner)
    assert (found.jobs, found.snapshots, found.still_running) == (2, 1, 0)
    assert store.quota.used(owner) == (0, kept_by_bob)
    assert [name for name in store.redis.keys(f"*{owner}*") if b"rate" not in name] == []
    assert alice.get("/v1/jobs").json()["jobs"] == []
    assert len(bob.get("/v1/jobs").json()["jobs"]) == 2


def test_what_a_worker_is_at_is_cancelled_first(gateway: Gateway) -> None:
    """A running job and its snapshot stay until its worker has ended it; a second purge takes them."""
    store = gateway.store
    alice, owner = keyed(gateway, "alice")
    job = str(post(alice, {"snapshot": upload(alice)})["id"])
    store.jobs.update(job, partial(jobs.claim, worker="w", now=store.jobs.now()))
    found = purge(store, owner)
    assert (found.jobs, found.snapshots, found.still_running) == (0, 0, 1)
    record = store.jobs.get(job)
    assert record is not None
    assert record.cancel_requested
    store.jobs.update(job, partial(jobs.lose, attempt=1, now=store.jobs.now()))
    found = purge(store, owner)
    assert (found.jobs, found.snapshots, found.still_running) == (1, 1, 0)


def test_an_operator_cancels_and_purges_by_key(gateway: Gateway, redis_url: str) -> None:
    """`keys cancel`, `keys purge` and `keys revoke --purge`, the last not while another key shares what it made."""
    alice, owner = keyed(gateway, "alice")
    post(alice, {"snapshot": upload(alice)})

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["keys", *words, "--redis-url", redis_url])
        return f"{result.exit_code} {result.output}"

    assert run("cancel", "alice") == "0 1 jobs are cancelled\n"
    assert cancel_all(gateway.store, owner) == 0
    assert "1 jobs and 1 snapshots" in run("purge", "alice")
    assert run("purge", "nobody").startswith("1 ")
    watcher, _ = create_key("watcher", [Scope.READ], now=0, owner=owner)
    gateway.store.apikeys.add(watcher)
    post(alice, {"snapshot": upload(alice)})
    assert "watcher shares" in run("revoke", "alice", "--purge")
    assert "1 jobs and 1 snapshots" in run("revoke", "watcher", "--purge")
    assert gateway.store.quota.used("") == (0, 0)
