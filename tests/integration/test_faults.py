"""A whole pool that is frozen, paused, hung, overflowing, or flooded by one key: no healthy worker pays for it."""

import signal
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest
from own_pool import OwnPool, own_pool
from service import tiny
from stand_in import SLEEP

from solver_service.rules.owners import Scope, create_key
from solver_service.settings import Settings
from solver_service.store import Store
from tests.conftest import wait_for

OCTETS = {"content-type": "application/octet-stream"}
SPEC = {"objective": "ramp", "radius": 0.1, "limits": {"time_s": 1}}
LEASE_S = 3.0
FROZEN_S = 6.0
WAKES_LATER_S = 1.5


@pytest.fixture
def pool() -> Iterator[OwnPool]:
    with own_pool(1, GDSOLVER_LEASE_S=str(LEASE_S)) as running:
        yield running


def submit(http: httpx.Client, *, seconds: float) -> str:
    """A job that sleeps for so long."""
    snapshot = http.post("/v1/snapshots", content=tiny(SLEEP, seconds=seconds).to_bytes(), headers=OCTETS).json()["id"]
    answer = http.post("/v1/jobs", json={**SPEC, "snapshot": snapshot})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def begun(http: httpx.Client, job: str) -> bool:
    return bool(http.get(f"/v1/jobs/{job}").json()["state"] == "running")


def lost(http: httpx.Client) -> float:
    (found,) = (
        line for line in http.get("/metrics").text.splitlines() if line.startswith("gdsolver_workers_lost_total")
    )
    return float(found.split()[1])


@pytest.mark.parametrize("parts", [None, ["redis"], ["redis", "worker-1"], ["gateway"]])
def test_a_freeze_costs_no_healthy_worker_its_job(pool: OwnPool, parts: list[str] | None) -> None:
    """All processes, Redis, Redis and a worker, or the gateway stand still for two leases: the same attempt goes on."""
    names = parts or list(pool.children)
    with httpx.Client(base_url=pool.url, timeout=30) as http:
        job = submit(http, seconds=FROZEN_S + 3 * LEASE_S)
        wait_for(lambda: begun(http, job))
        for name in names:
            pool.signal(name, signal.SIGSTOP)
        time.sleep(FROZEN_S)
        for name in names:  # Redis and who judges wake before those who are judged
            time.sleep(WAKES_LATER_S * (name == "worker-1"))
            pool.signal(name, signal.SIGCONT)
        record = http.get(f"/v1/jobs/{job}", params={"wait": 25}).json()
        assert (record["state"], record["attempt"]) == ("succeeded", 1)
        assert lost(http) == 0


def test_a_hung_child_is_noticed_whatever_its_jobs_limit(pool: OwnPool) -> None:
    """The solving child of a job that may take ten minutes is stopped: the next attempt begins within 15 s."""
    with httpx.Client(base_url=pool.url, timeout=30) as http:
        snapshot = http.post("/v1/snapshots", content=tiny(SLEEP, seconds=30).to_bytes(), headers=OCTETS).json()["id"]
        job = http.post("/v1/jobs", json={**SPEC, "snapshot": snapshot, "limits": {"time_s": 600}}).json()["id"]
        wait_for(lambda: begun(http, job))
        (child,) = psutil.Process(pool.pid("worker-1")).children()
        child.suspend()
        wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["attempt"] == 2, within_s=15)
        assert lost(http) == 1


def test_an_idle_child_that_hangs_is_replaced(pool: OwnPool) -> None:
    """It would have kept the next message for ever."""
    with httpx.Client(base_url=pool.url, timeout=30) as http:
        (child,) = psutil.Process(pool.pid("worker-1")).children()
        child.suspend()
        job = submit(http, seconds=0.1)
        wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded", within_s=40)


def test_a_result_that_overflows_is_its_jobs_own_trouble(pool: OwnPool) -> None:
    """What overflows is refused, and what just does not adds up to more: records stay readable, all else goes on."""
    tensors = {
        "inputs": [[1000.0], [-1000.0]],
        "targets": [0, 1],
        "weight": [[-1.0], [1.0]],
        "sample_weight": [1e38, 1e38],
    }
    with httpx.Client(base_url=pool.url, timeout=30) as http:
        inline = {"task": "classification", "tensors": tensors}
        spec = {"objective": "hinge", "margin": 1e-290, "radius": 3, "snapshot": inline, "limits": {"time_s": 1}}
        refused = http.post("/v1/jobs", json=spec)
        assert refused.status_code == 422, refused.text
        spec["margin"] = 2.5e-267  # a value that float64 just holds
        for _ in range(2):  # what both gained together is more than a float64 holds
            job = http.post("/v1/jobs", json=spec).json()["id"]
            record = http.get(f"/v1/jobs/{job}", params={"wait": 30}).json()
            assert record["state"] in ("succeeded", "failed"), record
        assert http.get("/v1/stats").json()["running"] == 0
        good = submit(http, seconds=0.1)
        assert http.get(f"/v1/jobs/{good}", params={"wait": 30}).json()["state"] == "succeeded"
        for path in ("/v1/workers", "/v1/jobs", "/metrics", "/readyz"):
            assert http.get(path).status_code == 200
        assert all("inf" not in line.split()[-1].lower() for line in http.get("/metrics").text.splitlines())


def test_a_long_queue_of_one_key_delays_no_other_key() -> None:
    """Two workers, 500 queued jobs of 2 s of one key: another key's job begins within 5 s."""
    with own_pool(2) as pool:
        store = Store.open(Settings(redis_url=pool.redis_url))
        tokens = []
        for name in ("greedy", "modest"):
            key, token = create_key(name, [Scope.SUBMIT, Scope.READ], now=store.jobs.now())
            store.apikeys.add(key)
            tokens.append({"Authorization": f"Bearer {token}"})
        store.close()
        time.sleep(1.5)  # until the gateway knows of the keys
        with httpx.Client(base_url=pool.url, timeout=30) as http:
            ids = [
                http.post("/v1/snapshots", content=tiny(SLEEP, seconds=2).to_bytes(), headers=OCTETS | who).json()["id"]
                for who in tokens
            ]
            for number in range(500):
                spec = {**SPEC, "snapshot": ids[0], "priority": "high" if number % 2 else "normal"}
                assert http.post("/v1/jobs", json=spec, headers=tokens[0]).status_code == 202
            job = http.post("/v1/jobs", json={**SPEC, "snapshot": ids[1]}, headers=tokens[1]).json()["id"]
            path = f"/v1/jobs/{job}"
            wait_for(lambda: http.get(path, headers=tokens[1]).json()["state"] != "queued", within_s=5)


def test_a_full_redis_keeps_results_and_workers(pool: OwnPool) -> None:
    """At `maxmemory` a worker neither ends nor loses what it has found, which is stored once there is room."""
    store = Store.open(Settings(redis_url=pool.redis_url))
    with httpx.Client(base_url=pool.url, timeout=30) as http:
        job = submit(http, seconds=1)
        wait_for(lambda: begun(http, job))
        store.redis.config_set("maxmemory", "1")
        time.sleep(3 * LEASE_S)
        assert pool.dead() == []
        assert http.get(f"/v1/jobs/{job}").json()["state"] == "running"
        store.redis.config_set("maxmemory", "0")
        record = http.get(f"/v1/jobs/{job}", params={"wait": 25}).json()
        assert (record["state"], record["attempt"]) == ("succeeded", 1)
        assert http.get("/v1/jobs").json()["jobs"][0]["id"] == job
    store.close()


def test_a_worker_that_starts_at_a_full_redis_waits(pool: OwnPool) -> None:
    """It does not end, and serves as soon as there is room."""
    store = Store.open(Settings(redis_url=pool.redis_url))
    pool.signal("worker-1", signal.SIGKILL)
    wait_for(lambda: pool.dead() == ["worker-1"])
    store.redis.config_set("maxmemory", "1")
    pool.revive("worker-1")
    time.sleep(4)
    assert pool.dead() == []
    store.redis.config_set("maxmemory", "0")
    with httpx.Client(base_url=pool.url, timeout=30) as http:
        job = submit(http, seconds=0.1)
        assert http.get(f"/v1/jobs/{job}", params={"wait": 30}).json()["state"] == "succeeded"
    store.close()
