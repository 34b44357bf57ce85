"""What tests at every tier share: small random problems, a real Redis, and a whole pool."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import redis

from shared.snapshot import Snapshot
from solver_service.pool.own_redis import redis_command
from solver_service.queue import QUEUES, TASK
from solver_service.settings import Settings
from solver_service.store import Store

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def small_snapshot(seed: int = 0, *, n: int = 30, d: int = 3, classes: int = 3) -> Snapshot:
    """A stalled linear classifier on overlapping blobs: some samples are wrong, and the box can mend a few."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    centres = 1.5 * rng.normal(size=(classes, d))
    inputs = (centres[targets] + rng.normal(size=(n, d))).astype(np.float32)
    weight = (0.3 * centres + 0.3 * rng.normal(size=(classes, d))).astype(np.float32)
    return Snapshot(
        task="classification",
        inputs=inputs,
        targets=targets.astype(np.int64),
        weight=weight,
        bias=np.zeros(classes, np.float32),
    )


def wait_for(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Poll until the condition holds; fail clearly when it never does."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"{condition} did not hold within {within_s} s"
        time.sleep(0.05)


def sent(client: redis.Redis, task: str = TASK) -> list[str]:
    """Ids of the jobs whose messages wait for a worker, oldest first within each priority."""
    found = []
    for queue in QUEUES:
        for text in reversed(client.lrange(queue, 0, -1)):
            message = json.loads(text)
            if message["headers"]["task"] == task:
                (arguments, *_) = json.loads(base64.b64decode(message["body"]))
                found.append(str(arguments[0]))
    return found


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a unix socket, for this test run alone."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="gds-test-") as short:
        path = Path(short) / "redis.sock"
        command = redis_command(path, tmp_path_factory.mktemp("redis"))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(path.exists)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    """What a pool keeps in that Redis: nothing yet."""
    opened = Store.open(Settings(redis_url=redis_url))
    opened.redis.flushall()
    yield opened
    opened.close()


@dataclass
class RunningPool:
    """A `gdsolver-pool up` of the test's own."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self) -> int:
        """End it as a user would, and say how it exited."""
        self.process.terminate()
        return self.process.wait(30)


def start_pool(
    folder: Path, *, workers: int = 1, environment: dict[str, str] | None = None, options: Sequence[str] = ()
) -> RunningPool:
    """Start the embedded stack on a free port and wait for its ready line."""
    log = folder / "pool.log"
    command = [sys.executable, "-m", "solver_service", "up", "--port", "0"]
    said = folder / "pool.out"
    with log.open("w") as errors, said.open("w") as output:
        process = subprocess.Popen(
            [*command, "--workers", str(workers), "--data-dir", str(folder / "data"), *options],
            stdout=output,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    wait_for(lambda: said.read_text().endswith("\n") or process.poll() is not None, within_s=60)
    assert said.read_text().startswith("gdsolver-pool ready: "), log.read_text()
    return RunningPool(process, said.read_text().split()[-1], log)


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    """One embedded stack for all tests that only use it."""
    running = start_pool(tmp_path_factory.mktemp("pool"))
    try:
        yield running
    finally:
        running.stop()
