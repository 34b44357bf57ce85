"""`gdsolver-pool gateway --processes 2`: one address, two processes, and what becomes of it when one of them ends."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from solver_service.rules.owners import Scope, create_key
from solver_service.store import Store
from tests.conftest import ROOT, start_pool, wait_for
from tests.contract.test_store import add
from tests.processes import command_line, is_alive, living_children

WITHIN_S = 8.0
"""Less than the time after which a waiter looks by itself, so that only a word from the other process wakes it."""


@dataclass
class Gateways:
    """Two gateway processes with one parent on one port."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    opened: ExitStack

    def pids(self) -> set[int]:
        return {child.pid for child in living_children(self.process.pid)}

    def connected(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WITHIN_S)
        self.opened.enter_context(closing(connection))
        assert ask(connection, "GET", "/healthz") == {"status": "alive"}
        return connection

    @contextmanager
    def only(self, pid: int) -> Iterator[None]:
        """Have one of the processes take whoever comes meanwhile."""
        others = [psutil.Process(other) for other in self.pids() - {pid}]
        for other in others:
            other.suspend()
        yield
        for other in others:
            other.resume()


def ask(connection: http.client.HTTPConnection, method: str, path: str) -> Any:
    connection.request(method, path)
    return json.loads(connection.getresponse().read())


def counted(connection: http.client.HTTPConnection) -> float:
    """Answers of `/healthz`, as `/metrics` counts them."""
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    assert page.count('gdsolver_bytes_in_flight{direction="in"} 0.0') == 1
    line = 'gdsolver_http_requests_total{method="GET",route="/healthz",status="200"} '
    return sum(float(found.removeprefix(line)) for found in page.splitlines() if found.startswith(line))


@pytest.fixture
def gateways(store: Store, redis_url: str, tmp_path: Path) -> Iterator[Gateways]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    command = [sys.executable, "-m", "solver_service", "gateway", "--processes", "2", "--port", str(port)]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--redis-url", redis_url], cwd=ROOT, stderr=file)
    opened = ExitStack()
    made = Gateways(process, port, log, opened)
    try:
        wait_for(lambda: "gateways begin" in log.read_text())
        for pid in made.pids():
            beat(pid)
        yield made
    finally:
        last = made.pids()
        opened.close()
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
        assert not [pid for pid in last if psutil.pid_exists(pid)]


def beat(pid: int) -> None:
    """Wait until a process is seen to serve: its pulse moves on."""
    process = psutil.Process(pid)
    # Until it has become another program, a process has its parent's words.
    wait_for(lambda: "--pulse" in command_line(process))
    words = command_line(process)
    pulse = Path(words[words.index("--pulse") + 1])
    before = pulse.stat().st_mtime
    wait_for(lambda: pulse.stat().st_mtime != before)


def test_a_poll_at_one_process_is_woken_by_a_change_at_the_other(gateways: Gateways, store: Store) -> None:
    """Both answer on the same port; who waits at one gets the job that is cancelled at the other."""
    one, two = gateways.pids()
    with gateways.only(one):
        waiting = gateways.connected()
    with gateways.only(two):
        other = gateways.connected()
    job = add(store)
    answers: list[Any] = []
    poll = threading.Thread(target=lambda: answers.append(ask(waiting, "GET", f"/v1/jobs/{job.id}?wait=30")))
    poll.start()
    assert ask(other, "DELETE", f"/v1/jobs/{job.id}")["state"] == "cancelled"
    poll.join(2 * WITHIN_S)
    assert [answer["state"] for answer in answers] == ["cancelled"]


def test_metrics_are_those_of_all_processes_and_outlive_one(gateways: Gateways) -> None:
    """Whichever process is asked shows the sum; one that is killed is replaced, and what it counted stays counted."""
    one, two = gateways.pids()
    with gateways.only(one):
        first = gateways.connected()
    with gateways.only(two):
        second = gateways.connected()
    assert counted(first) == counted(second) == 2
    os.kill(one, 9)
    wait_for(lambda: len(gateways.pids() - {one}) == 2)
    assert ask(second, "GET", "/healthz") == {"status": "alive"}
    assert counted(second) == 3
    (new,) = gateways.pids() - {one, two}
    beat(new)
    with gateways.only(new):
        third = gateways.connected()
    assert counted(third) == 4


def test_once_a_key_was_seen_no_process_opens_again(gateways: Gateways, store: Store) -> None:
    """One process has asked for a key; after Redis is emptied the other one asks for it, too, and so does a new one."""
    one, two = gateways.pids()
    with gateways.only(one):
        first = gateways.connected()
    with gateways.only(two):
        second = gateways.connected()
    store.apikeys.add(create_key("alice", {Scope.READ}, now=store.jobs.now())[0])
    wait_for(lambda: ask(first, "GET", "/v1/jobs").get("status") == 401)
    store.redis.flushall()
    assert ask(second, "GET", "/v1/jobs")["status"] == 401
    os.kill(one, 9)
    wait_for(lambda: len(gateways.pids() - {one}) == 2)
    (new,) = gateways.pids() - {one, two}
    beat(new)
    with gateways.only(new):
        third = gateways.connected()
    assert ask(third, "GET", "/v1/jobs")["status"] == 401


def test_a_process_that_hangs_is_replaced(gateways: Gateways) -> None:
    """Its pulse stands still although others answer at the same address."""
    one, _ = gateways.pids()
    gateways.connected()
    psutil.Process(one).suspend()
    wait_for(lambda: len(gateways.pids() - {one}) == 2, within_s=60)
    assert "it hangs" in gateways.log.read_text()


def test_the_embedded_pool_takes_several_gateways(tmp_path: Path) -> None:
    """`up --gateways 2` is ready as ever, and ends in good order."""
    pool = start_pool(tmp_path, options=("--gateways", "2"))
    everybody = living_children(pool.process.pid, recursive=True)
    assert sum("--pulse" in command_line(child) for child in everybody) == 2
    assert pool.stop() == 0
    assert not [child for child in everybody if is_alive(child)]
