"""The health check of the images, as Docker and a kubelet run it: a process, and its exit status."""

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from solver_service.settings import Settings
from solver_service.store import Store
from tests.conftest import ROOT, RunningPool

AWAY = "redis://127.0.0.1:1/0"


def asked(*what: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the check where no module of ours can be found, as it must in a second."""
    environment = {**os.environ, "PYTHONPATH": "", **variables}
    command = [sys.executable, str(ROOT / "docker" / "health.py"), *what]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def status(what: str, tmp_path: Path, **variables: str) -> int:
    return asked(what, folder=tmp_path, **variables).returncode


def test_a_worker_is_well_while_its_heartbeat_arrives(redis_url: str, tmp_path: Path) -> None:
    """A fresh heartbeat of this host counts, another host's does not."""
    store = Store.open(Settings(redis_url=redis_url))
    store.redis.flushall()
    store.workers.beat("w", host="elsewhere", pid=1, slots=1)
    for what in ("worker", "alive"):
        assert status(what, tmp_path, GDSOLVER_REDIS_URL=redis_url) == 1
    store.workers.beat("v", host=socket.gethostname(), pid=1, slots=1)
    for what in ("worker", "alive"):
        assert status(what, tmp_path, GDSOLVER_REDIS_URL=redis_url) == 0
    store.close()


@pytest.mark.parametrize(("what", "expected"), [("worker", 1), ("alive", 0)])
def test_a_worker_is_not_restarted_because_redis_is_away(what: str, expected: int, tmp_path: Path) -> None:
    """Without Redis the container is unhealthy, but there is no reason to restart it."""
    assert status(what, tmp_path, GDSOLVER_REDIS_URL=AWAY) == expected


def test_a_gateway_is_well_while_it_serves(pool: RunningPool, tmp_path: Path) -> None:
    """A gateway that answers is well; nobody on its port is not."""
    assert status("gateway", tmp_path, GDSOLVER_PORT=pool.url.rpartition(":")[2]) == 0
    nobody = asked("gateway", folder=tmp_path, GDSOLVER_PORT="1")
    assert (nobody.returncode, nobody.stderr.count("\n")) == (1, 1)
    assert nobody.stderr.startswith("no gateway answers at 127.0.0.1:1: ")


@pytest.mark.parametrize("words", [(), ("nonsense",), ("worker", "alive")])
def test_a_check_that_is_none_is_told_the_usage(words: tuple[str, ...], tmp_path: Path) -> None:
    """One line on standard error, and the exit status of a wrong command line."""
    told = asked(*words, folder=tmp_path)
    assert (told.returncode, told.stderr) == (2, "usage: health.py gateway|worker|alive\n")


def test_a_worker_without_the_address_of_its_redis_says_so(tmp_path: Path) -> None:
    """The variable that is missing is named."""
    told = asked("worker", folder=tmp_path, GDSOLVER_REDIS_URL="")
    assert (told.returncode, told.stderr) == (1, "GDSOLVER_REDIS_URL is not set\n")


@pytest.mark.parametrize(
    ("detail", "expected"), [("no solver worker has a fresh heartbeat", 0), ("Redis does not answer", 1)]
)
def test_a_gateway_is_well_without_workers_but_not_without_redis(detail: str, expected: int, tmp_path: Path) -> None:
    """With no worker at rest it has to take the job that calls the first one."""
    assert detail in (ROOT / "solver_service" / "gateway" / "readiness.py").read_text()

    class NotReady(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"detail": detail}).encode()
            self.send_response(503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), NotReady) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert status("gateway", tmp_path, GDSOLVER_PORT=str(server.server_port)) == expected
        thread.join()
