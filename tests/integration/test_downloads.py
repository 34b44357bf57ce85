"""Large results: whole for who reads them, and little in memory for those who do not."""

import contextlib
import os
import socket
from functools import partial

import httpx
import psutil
import pytest

from shared.contracts import JobSpec
from solver_service.gateway.download import MAX_DOWNLOAD_BYTES
from solver_service.rules import jobs
from solver_service.store import Store
from tests.conftest import wait_for
from tests.integration.test_hardening import closed_within, gateway_process
from tests.unit.service.test_jobs import RESULT

RESULT_BYTES = 20_000_000


def with_result(store: Store, data: bytes) -> str:
    spec = JobSpec(objective="ramp", radius=0.1)
    job, _ = store.jobs.add(jobs.create(spec, snapshot="a" * 64, owner="local", now=store.jobs.now()))
    store.jobs.update(job.id, partial(jobs.claim, worker="w", now=store.jobs.now()))
    store.jobs.update(job.id, partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now()), result=data)
    return job.id


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 131_072, 1_000_001])
def test_a_result_arrives_whole_whatever_its_size(store: Store, redis_url: str, size: int) -> None:
    """In one piece or in many, with its length said before."""
    data = os.urandom(size)
    job = with_result(store, data)
    with gateway_process(redis_url) as (port, _):
        answer = httpx.get(f"http://127.0.0.1:{port}/v1/jobs/{job}/result")
    assert answer.content == data
    assert answer.headers["content-length"] == str(size)


def test_clients_that_do_not_read_are_cut_off_and_cost_little(store: Store, redis_url: str) -> None:
    """A hundred of them with 20 MB each: the gateway grows by hardly more than its share, and soon ends them all."""
    job = with_result(store, bytes(RESULT_BYTES))
    request = f"GET /v1/jobs/{job}/result HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with gateway_process(redis_url, GDSOLVER_UNREAD_S="2") as (port, process):
        url = f"http://127.0.0.1:{port}/v1/jobs/{job}/result"
        assert len(httpx.get(url).content) == RESULT_BYTES
        before = psutil.Process(process.pid).memory_info().rss
        opened = [socket.socket() for _ in range(100)]
        for connection in opened:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port))
            connection.sendall(request)
        assert len(httpx.get(url, timeout=30).content) == RESULT_BYTES
        grown = psutil.Process(process.pid).memory_info().rss - before
        assert grown < 1.15 * MAX_DOWNLOAD_BYTES
        assert psutil.Process(process.pid).num_fds() > 100
        wait_for(lambda: psutil.Process(process.pid).num_fds() < 60)
        for connection in opened:
            with connection, contextlib.suppress(ConnectionResetError):
                assert len(closed_within(connection, 5)) < RESULT_BYTES
