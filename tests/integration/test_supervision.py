"""The embedded pool with children that hang, a private folder, and an address of IPv6."""

import json
import os
import stat
import time
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from solver_service.pool.running import redis_url_of
from tests.conftest import RunningPool, start_pool, wait_for
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


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def test_the_data_folder_is_this_users_alone(tmp_path: Path) -> None:
    """Also one that others could read before; and a Redis that was emptied does not open the door again."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "old").write_text("x")
    (data / "old").chmod(0o644)
    pool = start_pool(tmp_path)
    environment = {**os.environ, "COLUMNS": "200"}
    try:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (data, *data.rglob("*"))}
        assert modes.pop("data") == 0o700
        assert {oct(mode) for name, mode in modes.items() if (data / name).is_file()} == {"0o600"}
        assert httpx.get(f"{pool.url}/v1/jobs").status_code == 200
        import subprocess
        import sys

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
