"""A client that was made before a fork has connections of its own in each process, and answers are of the right job."""

import json
import multiprocessing
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.unit.trainer.fakes import FakePool
from tests.unit.trainer.test_client import SPEC, snapshot
from trainer import PoolUnavailableError, SolverClient

__all__ = ["snapshot"]


class Gateway(ThreadingHTTPServer):
    """Keeps connections open, and counts them."""

    connections = 0

    def get_request(self) -> Any:
        """Another connection."""
        self.connections += 1
        return super().get_request()


class Handler(BaseHTTPRequestHandler):
    """Ready, whatever it is asked."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        body = json.dumps({}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    server = Gateway(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_a_forked_process_has_connections_of_its_own(gateway: Gateway) -> None:
    """Two processes on one connection would read each other's answers; the parent's stays open."""
    client = SolverClient(f"http://127.0.0.1:{gateway.server_port}")
    assert client.ready()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_ask, args=[client]) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert client.ready()
    assert gateway.connections == 3
    client.close()


def _ask(client: SolverClient) -> None:
    assert client.ready()
    client.close()


def test_an_answer_about_another_job_is_none(snapshot: Any) -> None:
    """It may be a passing fault, and says so; the job's own answer is there when it is asked for again."""
    pool = FakePool()
    client = pool.client()
    first, second = client.solve(snapshot, SPEC, key="a"), client.solve(snapshot, SPEC, key="b")
    pool.script = [httpx.Response(200, content=client._channel.request("GET", f"/v1/jobs/{second.id}").content)]
    with pytest.raises(PoolUnavailableError, match=f"asked about job {first.id}, and answered about {second.id}"):
        client.job(first.id)
    assert client.job(first.id).id == first.id
