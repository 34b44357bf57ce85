"""The embedded pool with children that hang, a private folder, and an address of IPv6."""

import contextlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from solver_service.pool.children import PATIENCE_S
from solver_service.pool.running import redis_url_of
from solver_service.queue import TURNS_QUEUE
from tests.conftest import ROOT, RunningPool, small_snapshot, start_pool, wait_for
from tests.integration.test_gateway import OCTETS, SPEC
from tests.processes import command_line, is_alive, living_children


def children(pool: RunningPool) -> dict[str, psutil.Process]:
    """Redis, the gateway and the worker by name."""
    found = {}
    for child in living_children(pool.process.pid):
        line = " ".join(command_line(child))
        found.update({name: child for name in ("redis-server", " gateway ", " worker ") if name in line})
    return {name.strip(): child for name, child in found.items()}


@pytest.mark.parametrize("hung", ["gateway", "worker"])
def test_a_pool_with_a_hung_child_stops_in_order_and_says_so(tmp_path: Path, hung: str) -> None:
    """The child is killed after its own time; Redis is asked to stop after that, and the exit status tells."""
    pool = start_pool(tmp_path)
    parts = children(pool)
    parts[hung].suspend()
    pool.process.terminate()
    assert pool.process.wait(60) == 3
    log = pool.log.read_text()
    assert log.count("it did not stop in time") == 1
    assert "had to be killed" in log
    assert not [part for part in parts.values() if is_alive(part)]


@pytest.mark.parametrize("hung", ["gateway", "worker"])
def test_a_hung_child_is_noticed_and_replaced(tmp_path: Path, hung: str) -> None:
    """A stopped gateway does not answer, a stopped worker has no heartbeat: another one takes its place."""
    pool = start_pool(tmp_path)
    try:
        time.sleep(2.5)  # until it has been seen at work
        before = children(pool)[hung]
        before.suspend()
        wait_for(lambda: children(pool).get(hung, before) != before, within_s=40)
        wait_for(lambda: ready(pool.url), within_s=40)
        assert "it hangs" in pool.log.read_text()
    finally:
        assert pool.stop() == 0


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    """Redis then answers everything with an error, PING included: it is no hung child, and neither are the workers.

    What was accepted is still there, a submission's refusal names the cure, and the pool goes on once there is room.
    """
    pool = start_pool(tmp_path)
    try:
        time.sleep(2.5)  # until all have been seen at work
        before = children(pool)
        client = redis.Redis.from_url(redis_url_of(tmp_path / "data"))
        snapshot = httpx.post(f"{pool.url}/v1/snapshots", content=small_snapshot().to_bytes(), headers=OCTETS)
        job = {**SPEC, "snapshot": snapshot.json()["id"]}
        accepted = httpx.post(f"{pool.url}/v1/jobs", json=job).json()["id"]
        with disk_full(client, tmp_path / "gone"):
            refused = httpx.post(f"{pool.url}/v1/jobs", json=job)
            assert refused.status_code == 503
            assert "make room on the disk" in refused.json()["detail"]
            time.sleep(2 * PATIENCE_S)
            assert children(pool) == before
        wait_for(lambda: httpx.post(f"{pool.url}/v1/jobs", json=job).status_code == 202)
        assert (
            httpx.get(f"{pool.url}/v1/jobs/{accepted}", params={"wait": 30}, timeout=40).json()["state"] == "succeeded"
        )
        assert children(pool) == before
        assert "it hangs" not in pool.log.read_text()
        assert "Traceback" not in pool.log.read_text()
    finally:
        assert pool.stop() == 0


def test_a_worker_goes_on_whatever_redis_answers_and_holds(tmp_path: Path) -> None:
    """A change of role while it waits, messages that are none, a queue's name of another type: it stays."""
    pool = start_pool(tmp_path)
    try:
        before = children(pool)["worker"]
        client = redis.Redis.from_url(redis_url_of(tmp_path / "data"))
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        time.sleep(2.5)
        client.execute_command("REPLICAOF", "NO", "ONE")
        for message in (
            b"garbage",
            b"{}",
            b"[]",
            b"null",
            b"\xff\xfe",
            b'{"body": null, "headers": {}, "properties": {}}',
        ):
            client.lpush(TURNS_QUEUE, message)
        wait_for(lambda: client.llen(TURNS_QUEUE) == 0)
        client.set(TURNS_QUEUE, "no list")
        time.sleep(1.5)
        client.delete(TURNS_QUEUE)
        snapshot = httpx.post(f"{pool.url}/v1/snapshots", content=small_snapshot().to_bytes(), headers=OCTETS)
        job = httpx.post(f"{pool.url}/v1/jobs", json={**SPEC, "snapshot": snapshot.json()["id"]}).json()["id"]
        assert httpx.get(f"{pool.url}/v1/jobs/{job}", params={"wait": 30}, timeout=40).json()["state"] == "succeeded"
        assert children(pool)["worker"] == before
        log = pool.log.read_text()
        assert "a message cannot be read" in log
        assert "child died" not in log
        assert "Traceback" not in log
    finally:
        assert pool.stop() == 0


BROKEN = """
import sys
from solver_service.settings import Settings
from solver_service.worker import app, consumer

def broken(self: consumer.PatientConsumer) -> None:
    raise RuntimeError("broken")

consumer.PatientConsumer.start = broken
app.run_worker(Settings(redis_url=sys.argv[1]), name="w", slots=1)
"""


def test_a_worker_that_cannot_go_on_does_not_end_as_if_all_were_well(redis_url: str) -> None:
    """Whoever supervises it sees a status other than 0."""
    command = [sys.executable, "-c", BROKEN, redis_url]
    ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, timeout=60)
    assert ended.returncode == 1, ended.stderr


@contextlib.contextmanager
def disk_full(client: redis.Redis, folder: Path) -> Iterator[None]:
    """Have a Redis find that it cannot write to its disk, by a dump into a folder that is no longer there."""
    folder.mkdir()
    (was,) = client.config_get("dir").values()
    client.config_set("dir", str(folder))
    folder.rmdir()
    client.config_set("save", "3600 1")
    client.bgsave()
    wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    client.config_set("save", "")
    client.config_set("dir", was)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def test_the_data_folder_is_this_users_alone(tmp_path: Path) -> None:
    """Also one that others could read before; and a Redis that was emptied does not open the door again."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "redis.log").write_text("x")
    (data / "redis.log").chmod(0o644)
    pool = start_pool(tmp_path)
    environment = {**os.environ, "COLUMNS": "200"}
    try:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (data, *data.rglob("*"))}
        assert modes.pop("data") == 0o700
        assert {oct(mode) for name, mode in modes.items() if (data / name).is_file()} == {"0o600"}
        assert httpx.get(f"{pool.url}/v1/jobs").status_code == 200
        command = [sys.executable, "-m", "solver_service", "keys", "add", "alice", "--data-dir", str(data)]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        wait_for(lambda: httpx.get(f"{pool.url}/v1/jobs").status_code == 401)
        redis.Redis.from_url(redis_url_of(data)).flushall()
    finally:
        assert pool.stop() == 0
    pool = start_pool(tmp_path)
    try:
        assert httpx.get(f"{pool.url}/v1/jobs").status_code == 401
    finally:
        pool.stop()


def test_a_pool_on_the_loopback_of_ipv6(tmp_path: Path) -> None:
    """`up --host ::1` serves without a key, as on 127.0.0.1."""
    pool = start_pool(tmp_path, environment={"GDSOLVER_HOST": "::1"})
    try:
        assert pool.url.startswith("http://[::1]:")
        assert json.loads(httpx.get(f"{pool.url}/v1/jobs").text) == {"jobs": [], "cursor": None}
    finally:
        assert pool.stop() == 0
