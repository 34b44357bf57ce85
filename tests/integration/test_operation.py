"""What an operator does and sees: pause, drain and resume, the audit log, a gateway's metrics, and alerts on them."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from starlette.testclient import TestClient
from structlog.testing import capture_logs
from typer.testing import CliRunner

from solver_service.cli import app
from solver_service.rules.owners import Scope, create_key
from solver_service.settings import Settings
from solver_service.store.operation import Mode, Operation
from tests.conftest import ROOT, RunningPool, sent, small_snapshot, start_pool, wait_for
from tests.integration.test_gateway import OCTETS, SPEC, Gateway, assert_problem, post, upload

RULES = ROOT / "deploy" / "prometheus" / "gdsolver.yml"
FUNCTIONS = {"sum", "rate", "increase", "histogram_quantile", "by", "and", "on", "le", "or"}


@pytest.fixture
def gateway(redis_url: str) -> Iterator[Gateway]:
    made = Gateway(Settings(redis_url=redis_url, max_submissions_per_minute=2))
    yield made
    made.store.close()


def command(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    structlog.reset_defaults()
    assert result.exit_code == 0, result.output
    return result.output


def test_a_draining_pool_accepts_nothing_and_says_when(gateway: Gateway, client: TestClient, redis_url: str) -> None:
    """A submission is a 503 with Retry-After until `resume`; all else is answered as ever."""
    snapshot = upload(client)
    job = post(client, {"snapshot": snapshot})["id"]
    command("drain", "--redis-url", redis_url)
    gateway.store.operation._known = (Mode.RUNNING, float("-inf"))
    refused = client.post("/v1/jobs", json={**SPEC, "snapshot": snapshot})
    assert_problem(refused, 503, "draining")
    assert int(refused.headers["retry-after"]) > 0
    assert client.get(f"/v1/jobs/{job}").status_code == 200
    assert "1 jobs are queued" in command("resume", "--redis-url", redis_url)
    gateway.store.operation._known = (Mode.RUNNING, float("-inf"))
    post(client, {"snapshot": snapshot})
    assert set(sent(gateway.store.redis)) >= {str(job)}


def test_a_word_of_a_later_release_counts_as_running(gateway: Gateway) -> None:
    """A mode that this release does not know stops nothing."""
    gateway.store.redis.set("gds:mode", b"hibernating\xff")
    assert Operation(gateway.store.redis).mode() is Mode.RUNNING


@pytest.fixture(scope="module")
def own_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    running = start_pool(tmp_path_factory.mktemp("pool"))
    yield running
    running.stop()


def test_a_paused_pool_begins_nothing_until_it_is_resumed(own_pool: RunningPool) -> None:
    """Submissions wait, although a worker is free; after `resume` they are solved."""
    data = str(own_pool.log.parent / "data")
    with httpx.Client(base_url=own_pool.url, timeout=60) as http:
        snapshot = http.post("/v1/snapshots", content=small_snapshot().to_bytes(), headers=OCTETS).json()["id"]
        command("pause", "--data-dir", data)
        time.sleep(1.2)
        made = [http.post("/v1/jobs", json={**SPEC, "snapshot": snapshot}).json()["id"] for _ in range(3)]
        assert http.get(f"/v1/jobs/{made[0]}", params={"wait": 2}).json()["state"] == "queued"
        command("resume", "--data-dir", data)
        states = [http.get(f"/v1/jobs/{job}", params={"wait": 30}).json()["state"] for job in made]
    assert states == ["succeeded"] * 3
    wait_for(lambda: own_pool.log.read_text().count('"what": "attempt"') >= 3)
    line = next(line for line in own_pool.log.read_text().splitlines() if '"what": "attempt"' in line)
    assert {"job", "attempt", "owner", "key", "request"} <= set(json.loads(line))


@pytest.mark.parametrize("words", ["drain", "resume"])
def test_what_waited_in_a_paused_pool_begins_at_once(own_pool: RunningPool, words: str) -> None:
    """Whether it is resumed or drained, and although a worker has just seen that it is paused."""
    data = str(own_pool.log.parent / "data")
    with httpx.Client(base_url=own_pool.url, timeout=60) as http:
        snapshot = http.post("/v1/snapshots", content=small_snapshot().to_bytes(), headers=OCTETS).json()["id"]
        command("pause", "--data-dir", data)
        time.sleep(1.2)
        made = [http.post("/v1/jobs", json={**SPEC, "snapshot": snapshot}).json()["id"] for _ in range(3)]
        time.sleep(0.3)
        command(words, "--data-dir", data)
        states = [http.get(f"/v1/jobs/{job}", params={"wait": 4}).json()["state"] for job in made[:1]]
        command("resume", "--data-dir", data)
    assert states == ["succeeded"]


@pytest.mark.usefixtures("client")
def test_submissions_refusals_and_cancels_leave_an_audit_line(gateway: Gateway) -> None:
    """Each with the request's id, which the client may choose and gets back, the owner and the key's id."""
    key, token = create_key("alice", [Scope.SUBMIT], now=0)
    gateway.store.apikeys.add(key)
    alice = gateway.client(headers={"authorization": f"Bearer {token}"})
    gateway.app.state.services.door._asked -= 2
    snapshot = upload(alice)
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        submitted = alice.post("/v1/jobs", json={**SPEC, "snapshot": snapshot}, headers={"X-Request-Id": "mine-1"})
        cancelled = alice.delete(submitted.headers["location"])
        alice.post("/v1/jobs", json={**SPEC, "snapshot": snapshot})
        refused = alice.post("/v1/jobs", json={**SPEC, "snapshot": snapshot})
        stranger = gateway.client().get("/v1/jobs", headers={"X-Request-Id": "not one\n"})
    assert submitted.headers["x-request-id"] == "mine-1"
    assert refused.status_code == 429
    lines = [line for line in logs if line["event"] == "audit"]
    assert [(line["method"], line["status"], line["code"]) for line in lines] == [
        ("POST", 202, None), ("DELETE", cancelled.status_code, None), ("POST", 202, None),
        ("POST", 429, "rate_limited"), ("GET", 401, "unauthorized"),
    ]  # fmt: skip
    assert {(line["owner"], line["key"]) for line in lines[:4]} == {(key.owner, key.id)}
    assert lines[0]["request"] == "mine-1"
    assert lines[0]["about"] == submitted.headers["location"]
    assert lines[4]["request"] == stranger.headers["x-request-id"] != "not one"
    record = gateway.store.jobs.get(submitted.json()["id"])
    assert record is not None
    assert (record.key, record.request) == (key.id, "mine-1")


def test_a_gateway_counts_its_requests(gateway: Gateway, client: TestClient) -> None:
    """By route, never by id, with their time; refusals by code; and Redis' state beside them."""
    client.get(f"/v1/jobs/{'0' * 32}")
    client.get(f"/v1/jobs/{'1' * 32}")
    post(client, {"snapshot": upload(client)})
    page = client.get("/metrics").text
    assert 'gdsolver_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"} 2.0' in page
    assert 'gdsolver_http_requests_total{method="POST",route="/v1/jobs",status="202"} 1.0' in page
    assert 'gdsolver_http_request_seconds_count{route="/v1/jobs/{job_id}"} 2.0' in page
    assert 'gdsolver_http_refused_total{code="not_found"} 2.0' in page
    assert 'gdsolver_bytes_in_flight{direction="in"} 0.0' in page
    assert 'gdsolver_mode{mode="running"} 1.0' in page
    used = re.search(r"gdsolver_redis_memory_bytes ([0-9.e+]+)", page)
    assert used is not None
    assert float(used[1]) > 100_000
    gateway.store.redis.set("gds:reaper", "x")
    assert "gdsolver_reaper_alive 1.0" in client.get("/metrics").text


def parsed(text: str) -> list[dict[str, Any]]:
    """The rules of the file: YAML of nothing but mappings and lists of plain or quoted words; all else is an error."""
    rules: list[dict[str, Any]] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("#") or line in ("groups:", "  - name: gdsolver", "    rules:"):
            continue
        found = re.fullmatch(r"(      - |        |          )(\w+):(?: (\S.*))?", line)
        assert found, line
        indent, name, value = found.groups()
        if value is not None:
            plain = not re.search(r": |\s#", value) and value[0] not in "{[&*!|>%@`'\""
            assert plain or (value[0] == value[-1] == '"' and '"' not in value[1:-1]), line
        if indent == "      - ":
            rules.append({name: value})
        elif indent == "        ":
            section = name
            rules[-1][name] = value if value is not None else {}
        else:
            rules[-1][section][name] = value
    return rules


def test_alerts_ask_for_metrics_that_there_are(client: TestClient) -> None:
    """The committed rules are well-formed, each with its words, and name only what /metrics shows."""
    post(client, {"snapshot": upload(client)})
    client.get(f"/v1/jobs/{'0' * 32}")
    page = client.get("/metrics").text
    shown = set(re.findall(r"^([a-z_]+)(?:\{|\s)", page, re.MULTILINE)) | {"up"}
    rules = parsed(RULES.read_text())
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        assert re.fullmatch(r"[0-9]+[mh]", rule["for"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        expression = str(rule["expr"])
        for opened, closed in ("()", "{}", "[]"):
            assert expression.count(opened) == expression.count(closed)
        names = re.sub(r"\{[^}]*\}|\[[0-9a-z]+\]|\"[^\"]*\"", " ", expression)
        assert {word for word in re.findall(r"[a-zA-Z_]\w*", names) if word not in FUNCTIONS} <= shown
