"""A gateway and its Redis under pressure: no memory left, claims of huge tensors, slow clients, TLS, no pickle."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from kombu.exceptions import ContentDisallowed
from kombu.serialization import registry

from shared.contracts import State
from solver_service import queue
from solver_service.errors import StoreFullError
from solver_service.pool.own_redis import redis_command
from solver_service.rules.owners import Scope, create_key
from solver_service.settings import Settings
from solver_service.store import Store
from tests.conftest import ROOT, RunningPool, small_snapshot, wait_for
from tests.integration.test_gateway import OCTETS, SPEC, Gateway, assert_problem, finish, post, upload


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    """A Redis that a test may starve."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="gds-test-") as short:
        path = Path(short) / "redis.sock"
        process = subprocess.Popen(redis_command(path, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(path.exists)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait(10)


def test_a_redis_without_memory_refuses_and_keeps_what_was_accepted(own_redis: str) -> None:
    """Out of memory: 503 with Retry-After for whatever writes; accepted jobs are intact, and are solved afterwards."""
    gateway = Gateway(Settings(redis_url=own_redis))
    redis = gateway.store.redis
    with gateway.client() as client:
        snapshot = upload(client)
        unwanted = str(post(client, {"snapshot": snapshot})["id"])
        accepted = str(post(client, {"snapshot": snapshot, "run": "r"})["id"])
        redis.config_set("maxmemory", "1")
        for refused in (
            client.post("/v1/jobs", json={**SPEC, "snapshot": snapshot}),
            client.post("/v1/jobs", json={**SPEC, "snapshot": snapshot}, headers={"Idempotency-Key": "k"}),
            client.post("/v1/snapshots", content=small_snapshot(1).to_bytes(), headers=OCTETS),
        ):
            assert_problem(refused, 503, "store_unavailable")
            assert refused.headers["retry-after"]
            assert "memory" in refused.json()["detail"]
        record = client.get(f"/v1/jobs/{accepted}").json()
        assert record["state"] == "queued"
        assert [job["id"] for job in client.get("/v1/jobs").json()["jobs"]] == [accepted, unwanted]
        assert client.delete(f"/v1/jobs/{unwanted}").json()["state"] == State.CANCELLED.value
        with pytest.raises(StoreFullError):
            gateway.store.limits.admit("somebody")
        redis.config_set("maxmemory", "0")
        finish(gateway, accepted)
        assert client.get(f"/v1/jobs/{accepted}").json()["state"] == State.SUCCEEDED.value
        assert client.get("/v1/stats").json()["queued"] == 0
    gateway.store.close()


def test_memory_that_ends_within_a_snapshot_leaves_nothing_of_it(own_redis: str) -> None:
    """Redis takes the first pieces and refuses a later one: no snapshot, no bytes counted, no pieces."""
    store = Store.open(Settings(redis_url=own_redis))
    used = int(store.redis.info("memory")["used_memory"])
    store.redis.config_set("maxmemory", used + 4_000_000)
    with pytest.raises(StoreFullError):
        store.blobs.put_snapshot("local", "a" * 64, bytes(16_000_000))
    store.redis.config_set("maxmemory", "0")
    assert not store.blobs.has_snapshot("local", "a" * 64)
    assert store.quota.used("local") == (0, 0)
    assert store.redis.keys("gds:arriving:*") == []
    store.close()


def test_a_header_that_claims_two_to_the_sixtieth_elements_is_refused(redis_url: str) -> None:
    """A few bytes that promise an exabyte get a 413 that names the tensor; nothing of the size is allocated."""
    header = {
        "__metadata__": {"snapshot": json.dumps({"format": "gdsolver.snapshot/1", "task": "regression"})},
        "inputs": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    gateway = Gateway(Settings(redis_url=redis_url))
    with gateway.client() as client:
        content = len(text).to_bytes(8, "little") + text + bytes(4)
        assert_problem(client.post("/v1/snapshots", content=content, headers=OCTETS), 413, "too_large", "inputs")
    gateway.store.close()


@contextlib.contextmanager
def running_gateway(redis_url: str, *options: str, **environment: str) -> Iterator[int]:
    """A gateway process on a free port."""
    with gateway_process(redis_url, *options, **environment) as (port, _):
        yield port


@contextlib.contextmanager
def gateway_process(
    redis_url: str, *options: str, **environment: str
) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """A gateway process on a free port, and the process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "solver_service", "gateway", "--port", str(port), "--redis-url", redis_url, *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
    )

    def listening() -> bool:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        wait_for(listening)
        yield port, process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def closed_within(connection: socket.socket, seconds: float) -> bytes:
    """Everything that comes until the other side closes; a test fails if it does not in time."""
    connection.settimeout(seconds)
    found = b""
    while part := connection.recv(4096):
        found += part
    return found


def test_slow_clients_are_closed(redis_url: str) -> None:
    """Silence, half a header, a body that never comes and one that nobody wants each end after their time."""
    slow = {"GDSOLVER_HEADERS_WITHIN_S": "0.5", "GDSOLVER_BODY_GRACE_S": "0.5"}
    post = b"POST /v1/snapshots HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n"
    unwanted = b"POST /v1/nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000\r\n\r\n"
    with running_gateway(redis_url, **slow) as port:
        address = ("127.0.0.1", port)
        began = time.monotonic()
        for sent, answered in ((b"", b""), (post, b""), (post + b"\r\nabc", b"408"), (unwanted, b"404")):
            with socket.create_connection(address) as connection:
                connection.sendall(sent)
                found = closed_within(connection, 8)
            assert found.split(b" ")[1:2] == ([answered] if answered else [])
        assert time.monotonic() - began < 12
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as patient:
            assert patient.get("/healthz").status_code == 200
            time.sleep(0.8)
            assert patient.get("/healthz").status_code == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_https(redis_url: str, tmp_path: Path) -> None:
    """With a certificate and its key the gateway speaks TLS, and nothing else on that port."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    with running_gateway(redis_url, "--ssl-certfile", str(cert), "--ssl-keyfile", str(key)) as port:
        trusted = ssl.create_default_context(cafile=str(cert))
        assert httpx.get(f"https://localhost:{port}/healthz", verify=trusted).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"https://localhost:{port}/healthz", verify=ssl.create_default_context())
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{port}/healthz")


def test_a_stored_key_opens_the_door_off_loopback(redis_url: str) -> None:
    """Off loopback a gateway starts with a stored key alone, and lets nobody in without it."""
    store = Store.open(Settings(redis_url=redis_url))
    store.redis.flushall()
    key, token = create_key("alice", [Scope.READ], now=0)
    store.apikeys.add(key)
    with running_gateway(redis_url, "--host", "0.0.0.0", GDSOLVER_API_KEY="") as port:
        url = f"http://127.0.0.1:{port}/v1/jobs"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"authorization": f"Bearer {token}"}).status_code == 200
        store.apikeys.revoke("alice")
        assert httpx.get(url, headers={"authorization": f"Bearer {token}"}).status_code == 401
    store.close()


def test_messages_are_json_alone() -> None:
    """Neither end of the queue writes anything but JSON, and pickle is not accepted even by name."""
    conf = queue.celery_app("redis://127.0.0.1:1/0").conf
    assert conf.accept_content == ["json"]
    assert (conf.task_serializer, conf.result_serializer) == ("json", "json")
    assert conf.result_accept_content in (None, ["json"])
    assert conf.result_backend is None
    with pytest.raises(ContentDisallowed):
        registry.loads(b"\x80\x04N.", "application/x-python-serialize", "binary", accept=["application/json"])


def test_silent_uploads_of_one_key_refuse_nobody_else(redis_url: str) -> None:
    """Connections of one key that stop within a body hold its share for a while; another key uploads all the same."""
    store = Store.open(Settings(redis_url=redis_url))
    store.redis.flushall()
    tokens = []
    for name in ("greedy", "modest"):
        key, token = create_key(name, [Scope.SUBMIT], now=0)
        store.apikeys.add(key)
        tokens.append(token)
    limits = {"GDSOLVER_MAX_BODY_BYTES_IN_FLIGHT": "4000000", "GDSOLVER_BODY_GRACE_S": "3"}
    head = (
        f"POST /v1/snapshots HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {tokens[0]}\r\n"
        "Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n"
    )
    with running_gateway(redis_url, **limits) as port, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(4)]
        for connection in silent:
            connection.sendall(head.encode() + bytes(999_999))
        time.sleep(0.5)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {tokens[1]}"}
        ) as http:
            answer = http.post("/v1/snapshots", content=small_snapshot().to_bytes(), headers=OCTETS)
        assert answer.status_code == 201, answer.text
        statuses = {closed_within(connection, 8).split(b" ")[1] for connection in silent}
        assert b"429" in statuses
        assert statuses <= {b"408", b"429"}
    store.close()


def test_a_client_that_leaves_in_the_middle_of_its_body_is_one_line(pool: RunningPool) -> None:
    """It is told of as a 499 with the request's id, without a traceback, whatever it was sending."""
    begun = len(pool.log.read_text())
    address = urlsplit(pool.url)
    kinds = {"jobs": "application/json", "snapshots": "application/octet-stream", "batches": "application/json"}
    for path, kind in {**kinds, "solve": "multipart/form-data; boundary=x"}.items():
        with socket.create_connection((address.hostname, address.port)) as connection:
            head = f"POST /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n"
            connection.sendall(head.encode() + b"--x")
            time.sleep(0.2)
    wait_for(lambda: pool.log.read_text()[begun:].count('"status": 499') == 4)
    said = pool.log.read_text()[begun:]
    assert "Traceback" not in said
    assert "ClientDisconnect" not in said
