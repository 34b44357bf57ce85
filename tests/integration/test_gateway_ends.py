"""A gateway that is told to end: who waits gets an answer, and who follows a job a whole stream to resume."""

import contextlib
import http.client
import json
import signal
import threading
import time

import httpx
import psutil

from shared.contracts import JobSpec
from solver_service.rules import jobs
from solver_service.store import Store
from tests.conftest import small_snapshot, wait_for
from tests.integration.test_gateway import OCTETS
from tests.integration.test_hardening import gateway_process

WAITERS = 300


def test_nobody_who_waits_is_left_without_an_answer(store: Store, redis_url: str) -> None:
    """On SIGTERM every long poll gets the job as it is, a waiting submission its record, an event stream its end."""
    job, _ = store.jobs.add(
        jobs.create(JobSpec(objective="ramp", radius=0.1), snapshot="a" * 64, owner="local", now=store.jobs.now())
    )
    streamed: list[bytes] = []
    submitted: list[httpx.Response] = []
    with gateway_process(redis_url) as (port, process), contextlib.ExitStack() as opened:
        url = f"http://127.0.0.1:{port}"

        def follow() -> None:
            with httpx.stream("GET", f"{url}/v1/jobs/{job.id}/events", timeout=60) as stream:
                streamed.append(b"".join(stream.iter_raw()))

        def submit() -> None:
            with httpx.Client(base_url=url, timeout=60) as client:
                data = small_snapshot().to_bytes()
                snapshot = client.post("/v1/snapshots", content=data, headers=OCTETS).json()["id"]
                spec = {"objective": "ramp", "radius": 0.1, "snapshot": snapshot}
                submitted.append(client.post("/v1/jobs", json=spec, headers={"Prefer": "wait=60"}))

        threads = [threading.Thread(target=follow), threading.Thread(target=submit)]
        for thread in threads:
            thread.start()
        waiting = []
        for _ in range(WAITERS):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", f"/v1/jobs/{job.id}?wait=60")
            opened.callback(connection.close)
            waiting.append(connection)
        wait_for(lambda: psutil.Process(process.pid).num_fds() > WAITERS)
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        answers = [connection.getresponse() for connection in waiting]
        assert {answer.status for answer in answers} == {200}
        assert {json.loads(answer.read())["state"] for answer in answers} == {"queued"}
        for thread in threads:
            thread.join(20)
        assert process.wait(20) in (0, -signal.SIGTERM)
    assert [answer.status_code for answer in submitted] == [202]
    assert len(streamed) == 1
    assert b"following" in streamed[0]
