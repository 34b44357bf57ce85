"""Solver logs over HTTP: whole and in ranges, to their owner alone, and followed while they grow."""

from functools import partial

import httpx
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from solver_service.rules import jobs, owners
from solver_service.rules.jobs import Job
from solver_service.settings import Settings
from tests.conftest import RunningPool, small_snapshot
from tests.integration.test_gateway import Gateway, assert_problem, finish, post, upload
from tests.integration.test_pool import SPEC, ended, submit
from trainer.pool.client import SolverClient, read_events

TEXT = "attempt 1 on w\n     0.00 s  start; objective 3, bound 0\n"
SIZE = len(TEXT)


def begun(gateway: Gateway, client: TestClient) -> Job:
    """A running job of the client's."""
    made = str(post(client, {"snapshot": upload(client)})["id"])
    store = gateway.store
    job = store.jobs.update(made, partial(jobs.claim, worker="w", now=store.jobs.now()))
    assert job is not None
    return job


def test_a_log_is_empty_before_it_begins(client: TestClient) -> None:
    """A queued job has one, too: nothing has been said yet."""
    job = post(client, {"snapshot": upload(client)})["id"]
    response = client.get(f"/v1/jobs/{job}/log")
    assert (response.status_code, response.text) == (200, "")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-", 0, SIZE),
        ("bytes=8-", 8, SIZE),
        ("bytes=8-11", 8, 12),
        ("bytes=8-9999", 8, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        ("Bytes = -9999", 0, SIZE),
    ],
)
def test_a_part_is_sent_as_asked(gateway: Gateway, client: TestClient, asked: str, begin: int, end: int) -> None:
    """Open, closed and suffix ranges are a 206 that says where the part is."""
    job = begun(gateway, client)
    gateway.store.logs.append(job, TEXT)
    response = client.get(f"/v1/jobs/{job.id}/log", headers={"Range": asked})
    assert (response.status_code, response.text) == (206, TEXT[begin:end])
    assert response.headers["content-range"] == f"bytes {begin}-{end - 1}/{SIZE}"
    assert response.headers["content-length"] == str(end - begin)


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "bytes=1-2,5-6", "lines=1-2", "bytes=a-b", "nonsense"])
def test_ranges_that_mean_nothing_here_are_ignored(gateway: Gateway, client: TestClient, asked: str) -> None:
    """RFC 9110: what is no range of ours gets the whole log."""
    job = begun(gateway, client)
    gateway.store.logs.append(job, TEXT)
    response = client.get(f"/v1/jobs/{job.id}/log", headers={"Range": asked})
    assert (response.status_code, response.text) == (200, TEXT)
    with_tag = client.get(f"/v1/jobs/{job.id}/log", headers={"Range": "bytes=5-", "If-Range": '"tag"'})
    assert (with_tag.status_code, with_tag.text) == (200, TEXT)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=99999-100000", "bytes=-0"])
def test_a_part_behind_the_end_is_refused(gateway: Gateway, client: TestClient, asked: str) -> None:
    """416 says how much there is, so that who follows a log knows where it is."""
    job = begun(gateway, client)
    gateway.store.logs.append(job, TEXT)
    response = client.get(f"/v1/jobs/{job.id}/log", headers={"Range": asked})
    assert_problem(response, 416, "range_not_satisfiable", "Range")
    assert response.headers["content-range"] == f"bytes */{SIZE}"


def test_a_large_log_is_sent_in_pieces(gateway: Gateway, client: TestClient) -> None:
    """Whole and in part it is what was written."""
    job = begun(gateway, client)
    lines = "".join(f"line {number}\n" for number in range(16_000))
    for begin in range(0, len(lines), 50_000):
        gateway.store.logs.append(job, lines[begin : begin + 50_000])
    assert client.get(f"/v1/jobs/{job.id}/log").text == lines
    part = client.get(f"/v1/jobs/{job.id}/log", headers={"Range": "bytes=1000-150000"})
    assert part.text == lines[1000:150001]


def test_a_log_is_its_owners_alone(redis_url: str) -> None:
    """Another key gets what an unknown job gets: the same 404."""
    gateway = Gateway(Settings(redis_url=redis_url, api_key=SecretStr("k" * 40)))
    stranger, token = owners.create_key("stranger", {owners.Scope.READ}, now=0.0)
    gateway.store.apikeys.add(stranger)
    mine, other = {"authorization": f"Bearer {'k' * 40}"}, {"authorization": f"Bearer {token}"}
    with gateway.client(headers=mine) as client:
        job = begun(gateway, client)
        gateway.store.logs.append(job, TEXT)
        assert client.get(f"/v1/jobs/{job.id}/log").text == TEXT
        foreign = client.get(f"/v1/jobs/{job.id}/log", headers=other)
        unknown = client.get(f"/v1/jobs/{'0' * 32}/log", headers=other)
        assert_problem(foreign, 404, "not_found", "id")
        assert foreign.json() == unknown.json()
    gateway.store.close()


def test_events_carry_what_the_log_has_grown_by(gateway: Gateway, client: TestClient) -> None:
    """Text comes as `log` events of the solver's, in its place among the others, and can be resumed after."""
    job = begun(gateway, client)
    gateway.store.logs.append(job, TEXT)
    gateway.store.logs.append(job, "more\n")
    finish(gateway, job.id)
    events = list(read_events(client.get(f"/v1/jobs/{job.id}/events").iter_lines()))
    assert [event.kind for event in events] == ["state", "state", "log", "log", "state"]
    assert events[2].data == {"message": TEXT, "attempt": 1, "source": "solver"}
    resumed = client.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": str(events[2].id)})
    assert list(read_events(resumed.iter_lines())) == events[3:]


def test_a_pools_log_tells_its_stages(pool: RunningPool) -> None:
    """From claim to end, through a real worker: heading, stages, and how it ended; the client reads and follows it."""
    with httpx.Client(base_url=pool.url) as http:
        job = submit(http, small_snapshot(5).to_bytes(), SPEC)
        record = ended(http, job)
    with SolverClient(pool.url) as client:
        log = client.log(job)
        told = [event.data["message"] for event in client.events(job) if event.data.get("source") == "solver"]
    assert log.startswith(f"attempt 1 on {record['worker']}\n")
    assert "start; objective" in log
    assert f"ended as {record['result']['status']}" in log
    assert "".join(told) == log
