"""Abuse by those who send what they should not: bodies without end, claims, slow connections, guesses."""

import contextlib
import json
import secrets
import select
import socket
import time
from collections import Counter
from collections.abc import Callable

from abuse_pool import Pool, Statuses

BATCH = 100
GIGABYTES = 2_000_000_000


def repeated(seconds: float, once: Callable[[], tuple[int, bytes]]) -> Statuses:
    """Do it again and again, and count the statuses."""
    statuses: Statuses = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        statuses[str(once()[0])] += 1
    return statuses


def endless_uploads(pool: Pool, seconds: float) -> tuple[Statuses, str]:
    """Stream 2 GB of zeros in chunks until an answer comes, again and again."""
    statuses: Statuses = Counter()
    most = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status, sent = endless_upload(pool)
        statuses[status] += 1
        most = max(most, sent)
    return statuses, f"refused after at most {most / 1e6:,.0f} MB of 2,000"


def endless_upload(pool: Pool) -> tuple[str, int]:
    """Stream 2 GB of zeros in chunks, until an answer comes: (status, bytes sent until then)."""
    head = (
        f"POST /v1/snapshots HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {pool.token}\r\n"
        "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    size = 1 << 20
    chunk = b"%x\r\n" % size + bytes(size) + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", pool.port)) as connection:
        connection.sendall(head.encode())
        while sent < GIGABYTES and not select.select([connection], [], [], 0)[0]:
            connection.sendall(chunk)
            sent += size
        status = connection.recv(64).split(b" ")[1].decode()
    return status, sent


def exabyte(pool: Pool) -> tuple[int, bytes]:
    """Claim a tensor of 2^60 elements."""
    described = json.dumps({"format": "gdsolver.snapshot/1", "task": "regression"})
    header = json.dumps(
        {
            "__metadata__": {"snapshot": described},
            "inputs": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 4]},
        }
    ).encode()
    body = len(header).to_bytes(8, "little") + header + bytes(4)
    return pool.ask("POST", "/v1/snapshots", body, Authorization=f"Bearer {pool.token}", Content_Type="x/y")


def slow_connections(pool: Pool, count: int) -> tuple[Statuses, str]:
    """Open many connections that say nothing, half a header, or a byte of a body a second; see how each ends."""
    lines = f"POST /v1/snapshots HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {pool.token}\r\n"
    body = lines + "Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n"
    openings = (b"", lines.encode(), body.encode())
    opened: dict[socket.socket, int] = {}
    statuses: Statuses = Counter()
    began = time.monotonic()
    while len(opened) < count:
        for _ in range(min(BATCH, count - len(opened))):
            connection = socket.create_connection(("127.0.0.1", pool.port), timeout=30)
            kind = len(opened) % len(openings)
            connection.sendall(openings[kind])
            opened[connection] = kind
        time.sleep(0.1)
    opening_s, most = time.monotonic() - began, len(opened)
    poll = select.poll()
    by_number = {connection.fileno(): connection for connection in opened}
    for number in by_number:
        poll.register(number, select.POLLIN)
    trickled = time.monotonic()
    while by_number and time.monotonic() - began < 60:
        for number, _ in poll.poll(200):
            answer = b""
            with contextlib.suppress(OSError):
                answer = by_number[number].recv(4096)
            if answer.startswith(b"HTTP"):
                statuses[answer.split(b" ")[1].decode()] += 1
            elif not answer:
                if opened[by_number[number]] != 2:
                    statuses["closed"] += 1
                poll.unregister(number)
                by_number.pop(number).close()
        if time.monotonic() - trickled > 1:
            trickled = time.monotonic()
            for connection in by_number.values():
                if opened[connection] == 2:
                    with contextlib.suppress(OSError):
                        connection.send(b"x")
    if by_number:
        statuses["left open"] = len(by_number)
    note = f"{most:,} opened in {opening_s:.1f} s, all ended {time.monotonic() - began:.1f} s after the first"
    return statuses, note


def others_ids(pool: Pool, seconds: float) -> Statuses:
    """Ask for what belongs to the other key, by its right ids."""
    statuses: Statuses = Counter()
    key = {"Authorization": f"Bearer {pool.token}"}
    spec = json.dumps({"objective": "ramp", "radius": 0.1, "snapshot": pool.other_snapshot})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for method, path in (
            ("GET", f"/v1/jobs/{pool.other_job}"),
            ("GET", f"/v1/jobs/{pool.other_job}/result"),
            ("DELETE", f"/v1/jobs/{pool.other_job}"),
            ("HEAD", f"/v1/snapshots/{pool.other_snapshot}"),
        ):
            statuses[str(pool.ask(method, path, **key)[0])] += 1
    statuses[str(pool.ask("POST", "/v1/jobs", spec, Content_Type="application/json", **key)[0])] += 1
    return statuses


def guesses(pool: Pool, seconds: float) -> Statuses:
    """Try keys of the right form, as fast as one connection allows."""
    connection = pool.connect()
    statuses: Statuses = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        guess = f"gds_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
        connection.request("GET", "/v1/jobs", headers={"Authorization": f"Bearer {guess}"})
        answer = connection.getresponse()
        answer.read()
        statuses[str(answer.status)] += 1
    connection.close()
    return statuses
