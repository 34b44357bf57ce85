"""Abuse by a key that asks for more than its share of memory: each kind once cost the gateway gigabytes."""

import contextlib
import http.client
import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from abuse_pool import EXAMPLE, Pool, Statuses

from shared.contracts import Backend, JobResult, JobSpec, ObjectiveReport, Sizes, SolveStatus, Timings
from shared.snapshot import Snapshot
from solver_service.pool.running import redis_url_of
from solver_service.rules import jobs
from solver_service.rules.owners import owner_of
from solver_service.settings import Settings
from solver_service.store import Store

MEBIBYTE = 1024 * 1024
SILENT = 4
SUBMISSIONS = 40
UNREAD, RESULT_BYTES = 100, 20_000_000
LONG_LISTS, NUMBERS = 30, 400_000
OCTETS = "application/octet-stream"


def bodies_that_stop(pool: Pool) -> tuple[Statuses, str]:
    """Four uploads of 256 MiB less one byte, then silence; another key uploads meanwhile."""
    head = (
        f"POST /v1/snapshots HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {pool.token}\r\n"
        f"Content-Type: {OCTETS}\r\nContent-Length: {256 * MEBIBYTE}\r\n\r\n"
    ).encode()
    statuses: Statuses = Counter()
    others: Statuses = Counter()

    def send() -> str:
        with socket.create_connection(("127.0.0.1", pool.port), timeout=60) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(head)
                for _ in range(255):
                    connection.sendall(bytes(MEBIBYTE))
                connection.sendall(bytes(MEBIBYTE - 1))
            with contextlib.suppress(OSError):
                return (connection.recv(64).split(b" ")[1:2] or [b"closed"])[0].decode()
        return "closed"

    data = (EXAMPLE / "digits-stall.safetensors").read_bytes()
    with ThreadPoolExecutor(SILENT) as threads:
        sent = [threads.submit(send) for _ in range(SILENT)]
        while not all(one.done() for one in sent):
            status, _ = pool.ask(
                "POST", "/v1/snapshots", data, Content_Type=OCTETS, Authorization=f"Bearer {pool.other_token}"
            )
            others[str(status)] += 1
            time.sleep(0.2)
        statuses.update(one.result() for one in sent)
    for status in others:
        if status not in ("200", "201"):
            statuses[f"other {status}"] += others[status]
    return (
        statuses,
        f"{others.total()} uploads of the other key, refused {others.total() - others['200'] - others['201']}",
    )


def one_large_snapshot(pool: Pool) -> tuple[Statuses, str]:
    """Forty submissions of 200 bytes at once that name one snapshot of 61 MB."""
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(10_000, 1525)).astype(np.float32)
    targets, weight = rng.integers(0, 3, 10_000), np.zeros((3, 1525), np.float32)
    data = Snapshot(task="classification", inputs=inputs, targets=targets, weight=weight).to_bytes()
    key = {"Authorization": f"Bearer {pool.token}"}
    status, answer = pool.ask("POST", "/v1/snapshots", data, Content_Type=OCTETS, **key)
    if status != 201:
        return Counter({f"upload {status}": 1}), answer.decode()
    name = json.loads(answer)["id"]

    def submit(number: int) -> tuple[str, str]:
        spec = {"objective": "ramp", "radius": 0.1 + number / 1000, "snapshot": name, "ttl_s": 60 + number}
        body = json.dumps(spec)
        status, answer = pool.ask("POST", "/v1/jobs", body, Content_Type="application/json", **key)
        return str(status), json.loads(answer).get("id", "")

    with ThreadPoolExecutor(SUBMISSIONS) as threads:
        found = list(threads.map(submit, range(SUBMISSIONS)))
    for _, job in found:
        pool.ask("DELETE", f"/v1/jobs/{job}", **key)
    return Counter(status for status, _ in found), f"of one snapshot of {len(data) / 1e6:.0f} MB"


def unread_results(pool: Pool) -> tuple[Statuses, str]:
    """A hundred connections ask for a result of 20 MB and do not read it."""
    job = _with_result(pool)
    request = (
        f"GET /v1/jobs/{job}/result HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {pool.token}\r\n\r\n"
    ).encode()
    opened = []
    began = time.monotonic()
    for _ in range(UNREAD):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", pool.port))
        connection.sendall(request)
        opened.append(connection)
    gateway = pool.gateway()
    most = 0
    while time.monotonic() - began < 60:
        time.sleep(0.5)
        most = max(most, now := len(gateway.net_connections("tcp")))
        if most > UNREAD // 2 >= now:
            break
    took = time.monotonic() - began
    statuses: Statuses = Counter()
    for connection in opened:
        with connection:
            connection.settimeout(30)
            got = 0
            with contextlib.suppress(OSError):
                while part := connection.recv(65536):
                    got += len(part)
            statuses["cut off" if got < RESULT_BYTES else "sent whole"] += 1
    return statuses, f"most were cut off within {took:.0f} s"


def _with_result(pool: Pool) -> str:
    """A finished job of the abuser whose result is large, put into the store as a worker does."""
    store = Store.open(Settings(redis_url=redis_url_of(pool.data_dir)))
    known = [key for key in store.apikeys.all() if key.opens_with(pool.token)]
    owner = known[0].owner if known else owner_of(pool.token)
    spec = JobSpec(objective="ramp", radius=0.1)
    now = store.jobs.now
    while True:  # until the worker is not faster
        job, _ = store.jobs.add(jobs.create(spec, snapshot="a" * 64, owner=owner, now=now()))
        if store.jobs.update(job.id, partial(jobs.claim, worker="bench", now=now())) is not None:
            break
    report = ObjectiveReport(name="ramp", start=1.0, final=0.0, bound=0.0, gap=0.0)
    result = JobResult(
        objective=report, status=SolveStatus.OPTIMAL, improved=True, changed_weights=1, timings=Timings(),
        sizes=Sizes(), nodes=0, incumbents=[], backend=Backend(name="none", version="0"),
    )  # fmt: skip
    finish = partial(jobs.finish, result=result, attempt=1, now=now())
    store.jobs.update(job.id, finish, result=bytes(RESULT_BYTES))
    store.close()
    return job.id


def long_lists(pool: Pool) -> tuple[Statuses, str]:
    """Specs whose constraints name one class millions of times, then lists of all jobs, and models of all of them."""
    key = {"Authorization": f"Bearer {pool.token}"}
    statuses: Statuses = Counter()
    spec = {"objective": "ramp", "radius": 0.1, "snapshot": pool.other_snapshot}
    body = json.dumps({**spec, "constraints": [{"type": "nonnegative", "classes": [1] * NUMBERS}]})

    def submit(_: int) -> str:
        try:
            return str(pool.ask("POST", "/v1/jobs", body, Content_Type="application/json", **key)[0])
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__

    with ThreadPoolExecutor(8) as threads:
        statuses.update(threads.map(submit, range(LONG_LISTS)))
        listed = list(threads.map(lambda _: pool.ask("GET", "/v1/jobs?limit=200", **key), range(4)))
    statuses.update(f"list {status}" for status, _ in listed)
    for job in json.loads(listed[0][1])["jobs"]:
        status, _ = pool.ask("GET", f"/v1/jobs/{job['id']}/problem", **key)
        statuses[f"model {status}"] += 1
    return statuses, f"{len(body) / 1e6:.0f} MB each"
