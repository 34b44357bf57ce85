"""The pool that is abused, what is seen of it, and another client of it."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from given import usage

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable, "-m", "solver_service"]
EXAMPLE = ROOT / "examples"
PROBE_EVERY_S = 0.01
SAMPLE_EVERY_S = 0.05

Statuses = Counter[str]


@dataclass
class Pool:
    """The pool under abuse, and the keys of its two clients."""

    port: int
    data_dir: Path
    pid: int
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

    def gateway(self) -> psutil.Process:
        """The gateway's process."""
        children = psutil.Process(self.pid).children()
        return next(child for child in children if " gateway " in " ".join(child.cmdline()))

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
    rss_mb: float = 0.0

    @property
    def as_expected(self) -> bool:
        """Whether nothing came back but what was expected."""
        return bool(self.statuses) and set(self.statuses) <= set(self.expected)


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
    command = [sys.executable, __file__, str(pool.port), pool.other_token or "none", pool.other_job]
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


class Memory(threading.Thread):
    """Samples the most memory that the gateway's process had."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(daemon=True)
        self._gateway = pool.gateway()
        self._over = threading.Event()
        self.most_mb = 0.0

    def run(self) -> None:
        """Look until it is over."""
        while not self._over.wait(SAMPLE_EVERY_S):
            self.most_mb = max(self.most_mb, self._gateway.memory_info().rss / 1e6)

    def stop(self) -> float:
        """End looking: the most, in MB."""
        self._over.set()
        self.join()
        return self.most_mb


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
            yield Pool(int(ready.rsplit(":", 1)[1]), Path(folder), process.pid)
        finally:
            process.terminate()
            process.wait(30)
            if process.stdout:
                process.stdout.close()


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


if __name__ == "__main__":
    given = usage(str(__doc__), "PORT", "TOKEN", "JOB")
    probe(int(given.PORT), given.TOKEN, given.JOB)
