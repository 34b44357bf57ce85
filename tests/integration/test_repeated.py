"""Submissions sent again under their idempotency key: they find what the first made, however the pool is by then."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from shared.snapshot import snapshot_id
from solver_service.rules.owners import Scope, create_key
from solver_service.settings import Settings
from solver_service.store import keys
from solver_service.store.operation import Mode
from tests.conftest import small_snapshot
from tests.integration.test_gateway import SPEC, Gateway, assert_problem, finish, upload
from tests.integration.test_hardening import own_redis

__all__ = ["own_redis"]

SNAPSHOT = small_snapshot()
DATA = SNAPSHOT.to_bytes()
INLINE = {
    "task": "classification",
    "tensors": {name: array.tolist() for name, array in SNAPSHOT.tensors().items()},
}
KEY = {"Idempotency-Key": "once"}


@pytest.fixture
def gateway(own_redis: str) -> Iterator[Gateway]:
    made = Gateway(Settings(redis_url=own_redis, max_queued=1, max_submissions_per_minute=3, max_stored_bytes=200_000))
    yield made
    made.store.close()


@pytest.fixture
def alice(gateway: Gateway) -> Iterator[TestClient]:
    """A client with a key, since the limits are for those."""
    key, token = create_key("alice", [Scope.SUBMIT, Scope.READ], now=0, owner="a" * 16)
    gateway.store.apikeys.add(key)
    with gateway.client(headers={"authorization": f"Bearer {token}"}) as opened:
        yield opened


def by_id(client: TestClient, **more: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={**SPEC, **more, "snapshot": snapshot_id(DATA)}, headers=KEY)


def inline(client: TestClient, **more: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={**SPEC, **more, "snapshot": INLINE}, headers=KEY)


def as_form(client: TestClient, **more: Any) -> httpx.Response:
    form = {"spec": json.dumps({**SPEC, **more})}
    return client.post("/v1/solve", data=form, files={"snapshot": ("s", DATA)}, headers=KEY)


def as_batch(client: TestClient, **more: Any) -> httpx.Response:
    body = {"snapshot": snapshot_id(DATA), "specs": [{**SPEC, **more}]}
    return client.post("/v1/batches", json=body, headers=KEY)


def as_batch_form(client: TestClient, **more: Any) -> httpx.Response:
    form = {"batch": json.dumps({"specs": [{**SPEC, **more}]})}
    return client.post("/v1/batches", data=form, files={"snapshot": ("s", DATA)}, headers=KEY)


WAYS = [by_id, inline, as_form, as_batch, as_batch_form]


def draining(gateway: Gateway) -> None:
    gateway.store.operation.set(Mode.DRAINING)


def paused(gateway: Gateway) -> None:
    gateway.store.operation.set(Mode.PAUSED)


def without_snapshot(gateway: Gateway) -> None:
    for job in gateway.store.redis.zrange(keys.QUEUED, 0, -1):
        finish(gateway, job.decode())
    gateway.store.redis.delete(keys.snapshot("a" * 16, snapshot_id(DATA)))
    gateway.store.snapshots.forget("a" * 16, snapshot_id(DATA))


def full_of_bytes(gateway: Gateway) -> None:
    without_snapshot(gateway)
    for name in ("*", "a" * 16):
        gateway.store.redis.hset(keys.BYTES, name, 10**9)


def out_of_memory(gateway: Gateway) -> None:
    gateway.store.redis.config_set("maxmemory", "1")


def unhurried(_: Gateway) -> None:
    """The queue is full in any case: it has room for one job."""


STATES = [draining, paused, without_snapshot, full_of_bytes, out_of_memory, unhurried]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", STATES)
def test_a_repeated_submission_finds_its_job_in_every_state_of_the_pool(
    gateway: Gateway, alice: TestClient, way: Callable[..., httpx.Response], state: Callable[[Gateway], None]
) -> None:
    """The mode, the limits and the snapshot are asked of new jobs alone; another body is the conflict that it was."""
    upload(alice)
    first = way(alice)
    assert first.status_code == 202, first.text
    state(gateway)
    for _ in range(4):
        again = way(alice)
        assert again.status_code == 202, again.text
        assert again.json()["id"] == first.json()["id"]
    assert_problem(way(alice, radius=0.7), 422, "idempotency_mismatch", "Idempotency-Key")


@pytest.mark.parametrize("way", WAYS)
def test_a_key_whose_job_is_gone_makes_a_new_one_under_the_usual_rules(
    gateway: Gateway, alice: TestClient, way: Callable[..., httpx.Response]
) -> None:
    """Its record has expired: the submission is a new one, which a draining pool refuses and another one takes."""
    upload(alice)
    first = way(alice)
    without_snapshot(gateway)
    upload(alice)
    for name in gateway.store.redis.scan_iter("gds:job:*"):
        gateway.store.redis.delete(name)
    gateway.store.operation.set(Mode.DRAINING)
    assert_problem(way(alice), 503, "draining")
    gateway.store.operation.set(Mode.RUNNING)
    second = way(alice)
    assert second.status_code == 202, second.text
    assert second.json()["id"] != first.json()["id"]
