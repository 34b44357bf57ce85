"""Shows what abuse of a gateway gets, and what another client feels of it meanwhile.

usage: python benchmarks/abuse.py [--connections 2000] [--seconds 5] [--json FILE]

Starts an embedded pool of its own, and abuses it in turn with foreign hosts and origins, uploads without end, a header
that claims 2^60 elements, encoded bodies, slow connections, another key's ids and a loop of guessed keys. For each it
prints the statuses that came back, and the latency of another client's `GET /healthz` and `GET /v1/jobs/ID` meanwhile.
It exits with 1 if anything else than the expected statuses came back, or if that client's p99 over all the abuse, or
during any one kind of it, was 5 times its idle p99 or more.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import resource
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable, "-m", "solver_service"]
EXAMPLE = ROOT / "examples"
MAX_RATIO = 5.0
PROBE_EVERY_S = 0.01
BATCH = 100
GIGABYTES = 2_000_000_000

Statuses = Counter[str]


@dataclass
class Pool:
    """The pool under abuse, and the keys of its two clients."""

    port: int
    data_dir: Path
    token: str = ""
    other_token: str = ""
    other_job: str = ""
    other_snapshot: str = ""

    def connect(self) -> http.client.HTTPConnection:
        """Make a connection of its own."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Make one request on a new connection."""
        connection = self.connect()
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def add_key(self, name: str) -> str:
        """Make a key as an operator does."""
        command = [*PYTHON, "keys", "add", name, "--data-dir", str(self.data_dir)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


@dataclass
class Phase:
    """One kind of abuse: what came back, and what the other client felt."""

    name: str
    expected: list[str]
    statuses: dict[str, int] = field(default_factory=dict)
    note: str = ""
    seconds: float = 0.0
    probes: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    ratio: float = 0.0

    @property
    def as_expected(self) -> bool:
        """Whether nothing came back but what was expected."""
        return bool(self.statuses) and set(self.statuses) <= set(self.expected)


# --- the other client -------------------------------------------------------------------------------------------------


def probe(port: int, token: str, job: str) -> None:
    """Ask two things in turn until standard input ends, then print how long each took, in milliseconds."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {token}"}
    found: list[float] = []
    while not ended.wait(PROBE_EVERY_S):
        for path in ("/healthz", f"/v1/jobs/{job}"):
            began = time.perf_counter()
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            found.append(1000 * (time.perf_counter() - began))
            if answer.status != 200:
                raise SystemExit(f"{path}: {answer.status}")
    print(json.dumps(found))


@contextlib.contextmanager
def probed(pool: Pool, into: list[float]) -> Iterator[None]:
    """Have the other client ask all the while, from a process of its own."""
    command = [sys.executable, __file__, "--probe", str(pool.port), pool.other_token or "none", pool.other_job]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    try:
        yield
    finally:
        printed, _ = process.communicate()
        if process.returncode:
            raise SystemExit("the other client was refused")
        into.extend(json.loads(printed))


def percentile(values: list[float], share: float) -> float:
    """The value below which such a share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- the abuse --------------------------------------------------------------------------------------------------------


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


# --- the run ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_pool() -> Iterator[Pool]:
    """An embedded pool of our own, on a free port."""
    environment = {name: value for name, value in os.environ.items() if name != "GDSOLVER_API_KEY"}
    with tempfile.TemporaryDirectory(prefix="gdsolver-abuse-") as folder:
        command = [*PYTHON, "up", "--port", "0", "--workers", "1", "--data-dir", folder]
        with Path(folder, "pool.log").open("w") as log:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=environment
            )
        try:
            ready = process.stdout.readline() if process.stdout else ""
            if not ready:
                raise SystemExit(Path(folder, "pool.log").read_text())
            yield Pool(int(ready.rsplit(":", 1)[1]), Path(folder))
        finally:
            process.terminate()
            process.wait(30)


def give_the_other_client_a_job(pool: Pool) -> None:
    """Submit the committed example with the other client's key, and wait for its end."""
    key = {"Authorization": f"Bearer {pool.other_token}"}
    data = (EXAMPLE / "digits-stall.safetensors").read_bytes()
    _, answer = pool.ask("POST", "/v1/snapshots", data, Content_Type="application/octet-stream", **key)
    pool.other_snapshot = json.loads(answer)["id"]
    spec = {**json.loads((EXAMPLE / "spec.json").read_text()), "snapshot": pool.other_snapshot}
    status, answer = pool.ask("POST", "/v1/jobs", json.dumps(spec), Content_Type="application/json", **key)
    if status != 202:
        raise SystemExit(answer.decode())
    pool.other_job = json.loads(answer)["id"]
    pool.ask("GET", f"/v1/jobs/{pool.other_job}?wait=30", **key)


def run(connections: int, seconds: float) -> tuple[list[Phase], list[float]]:
    """Measure idle, then every kind of abuse: (phases with `idle` first, all latencies under abuse)."""
    phases: list[Phase] = []
    under_abuse: list[float] = []

    def phase(name: str, expected: list[str], abuse: Callable[[], Statuses | tuple[Statuses, str]]) -> None:
        latencies: list[float] = []
        with probed(pool, latencies):
            began = time.monotonic()
            found = abuse()
            took = time.monotonic() - began
        statuses, note = found if isinstance(found, tuple) else (found, "")
        p99 = percentile(latencies, 0.99)
        ratio = p99 / phases[0].p99_ms if phases else 1.0
        done = Phase(name, expected, dict(sorted(statuses.items())), note, took, len(latencies))
        done.p50_ms, done.p99_ms, done.max_ms, done.ratio = percentile(latencies, 0.5), p99, max(latencies), ratio
        if phases:
            under_abuse.extend(latencies)
        phases.append(done)
        print(f"{name}: {done.statuses} {note} p99 {p99:.1f} ms", file=sys.stderr)

    def idle() -> Statuses:
        time.sleep(3 * seconds)
        return Counter({"-": 1})

    with running_pool() as pool:
        # Keyless first, as a pool on loopback begins: then a web page must not be able to drive it.
        keyless = [
            ("a foreign Host", repeated(seconds / 2, lambda: pool.ask("GET", "/v1/jobs", Host="evil.example"))),
            (
                "a cross-site Origin",
                repeated(seconds / 2, lambda: pool.ask("GET", "/v1/jobs", Origin="http://evil.example")),
            ),
        ]
        refused = [Phase(name, ["403"], dict(found), "before any key, not timed") for name, found in keyless]
        pool.other_token, pool.token = pool.add_key("other"), pool.add_key("abuser")
        time.sleep(1.5)
        give_the_other_client_a_job(pool)
        key = {"Authorization": f"Bearer {pool.token}"}

        phase("idle", ["-"], idle)
        phase("2 GB streamed", ["413"], lambda: endless_uploads(pool, seconds))
        phase(
            "2 GB declared",
            ["413"],
            lambda: repeated(
                seconds, lambda: pool.ask("POST", "/v1/snapshots", b"", Content_Length=str(GIGABYTES), **key)
            ),
        )
        phase("a header of 2^60 elements", ["413"], lambda: repeated(seconds, lambda: exabyte(pool)))
        phase(
            "a gzip body",
            ["415"],
            lambda: repeated(
                seconds, lambda: pool.ask("POST", "/v1/snapshots", bytes(99), Content_Encoding="gzip", **key)
            ),
        )
        phase(f"{connections:,} slow connections", ["408", "closed"], lambda: slow_connections(pool, connections))
        phase("another key's ids", ["404"], lambda: others_ids(pool, seconds))
        phase("a loop of guessed keys", ["401", "429"], lambda: guesses(pool, seconds))
        status, answer = pool.ask("GET", f"/v1/jobs/{pool.other_job}", Authorization=f"Bearer {pool.other_token}")
        if status != 200 or json.loads(answer)["state"] != "succeeded":
            raise SystemExit(f"the other client's job was harmed: {status} {answer.decode()}")
    return [*phases, *refused], under_abuse


def show(phases: list[Phase]) -> None:
    """Print the table."""
    from rich.console import Console  # noqa: PLC0415 (the other client's process starts without it)
    from rich.table import Table  # noqa: PLC0415

    table = Table("abuse", "answers", "p50 ms", "p99 ms", "longest", "p99 / idle", title="abuse")
    for phase in phases:
        answers = ", ".join(f"{status} x {n:,}" for status, n in phase.statuses.items())
        figures = [f"{value:.1f}" for value in (phase.p50_ms, phase.p99_ms, phase.max_ms, phase.ratio)]
        shown = figures if phase.probes else [""] * 4
        table.add_row(phase.name, f"{answers} {phase.note}".strip(), *shown)
    Console().print(table)


def main() -> None:
    """Abuse a pool, print a table, and write JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--connections", type=int, default=2000, help="slow connections")
    options.add_argument("--seconds", type=float, default=5.0, help="how long each repeated abuse lasts")
    options.add_argument("--json", type=Path, default=Path("runs/bench-abuse.json"))
    options.add_argument("--probe", nargs=3, metavar=("PORT", "KEY", "JOB"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.probe:
        probe(int(chosen.probe[0]), *chosen.probe[1:])
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * chosen.connections + 100)), hard))
    busy = os.getloadavg()[0]
    phases, under_abuse = run(chosen.connections, chosen.seconds)
    show(phases)
    p99, idle_p99 = percentile(under_abuse, 0.99), phases[0].p99_ms
    worst = max(phases, key=lambda phase: phase.ratio)
    print(f"p99 over all the abuse {p99:.1f} ms, idle {idle_p99:.1f} ms: {p99 / idle_p99:.1f} times")
    print(f"worst kind: {worst.name}, {worst.ratio:.1f} times")
    good = all(phase.as_expected for phase in phases) and max(worst.ratio, p99 / idle_p99) < MAX_RATIO
    found = {
        "command": f"python benchmarks/abuse.py --connections {chosen.connections} --seconds {chosen.seconds:g}",
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": round(busy, 2)},
        "idle_p99_ms": idle_p99,
        "abuse_p99_ms": p99,
        "ratio": p99 / idle_p99,
        "worst_ratio": worst.ratio,
        "holds": good,
        "phases": [asdict(phase) for phase in phases],
    }
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
