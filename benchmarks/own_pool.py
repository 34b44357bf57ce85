"""A pool whose every process belongs to the benchmark that started it: it may be killed, stopped and revived."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from solver_service.pool.children import Child  # noqa: E402 (from a checkout, whatever is installed)
from solver_service.pool.local import answers  # noqa: E402
from solver_service.pool.own_redis import redis_command  # noqa: E402

LIFELINE = [sys.executable, "-m", "solver_service.pool.lifeline"]


def until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Poll until the condition holds; RuntimeError when it never does."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} within {within_s:g} s")
        time.sleep(0.05)


@dataclass
class OwnPool:
    """Redis on a unix socket in a temporary folder, one gateway on loopback, and N stand-in workers."""

    workers: int
    folder: Path
    listener: socket.socket
    settings: dict[str, str] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @property
    def redis_url(self) -> str:
        """Where its Redis listens."""
        return f"unix://{self.folder}/redis.sock"

    def start(self) -> None:
        """Bring everything up and wait until every worker is there."""
        self.environment = {
            **os.environ,
            **self.settings,
            "GDSOLVER_REDIS_URL": self.redis_url,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }
        data = self.folder / "data"
        data.mkdir()
        self.add(Child("redis", redis_command(self.folder / "redis.sock", data)))
        until((self.folder / "redis.sock").exists, 20, "Redis did not start")
        number = self.listener.fileno()
        gateway = [sys.executable, "-m", "solver_service", "gateway", "--fd", str(number)]
        self.add(Child("gateway", gateway, (number,)))
        for index in range(1, self.workers + 1):
            self.add_worker(index)
        host, port = self.listener.getsockname()
        until(lambda: answers(host, port, "/readyz"), 60, "the pool did not become ready")

    def add_worker(self, index: int, *, slots: int = 1) -> None:
        """Start one more worker, a process tree of its own with so many solving children."""
        name = f"worker-{index}"
        self.add(Child(name, [sys.executable, str(ROOT / "benchmarks" / "stand_in.py"), name, str(slots)]))

    def add(self, child: Child) -> None:
        """Start a child and look after it."""
        self.children[child.name] = child
        self.revive(child.name)

    def revive(self, name: str) -> None:
        """Start a child (again), in a session of its own; its words go to the log."""
        child = self.children[name]
        with (self.folder / "pool.log").open("ab") as log:
            child.process = subprocess.Popen(
                [*LIFELINE, *child.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=child.pass_fds,
                start_new_session=True,
                env=self.environment,
            )

    def pid(self, name: str) -> int:
        """The process id of a child, which is its group's, too."""
        process = self.children[name].process
        assert process is not None
        return process.pid

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a child and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid(name), number)

    def dead(self) -> list[str]:
        """Children that are not running."""
        return [
            name for name, child in self.children.items() if child.process is None or child.process.poll() is not None
        ]

    def stop(self) -> None:
        """End everything, Redis last."""
        names = [name for name in self.children if name != "redis"]
        for group in (names, ["redis"]):
            for name in group:
                if name in self.children:
                    self.signal(name, 18)  # SIGCONT: a stopped process hears no other word
                    self.children[name].signal(15)  # type: ignore[arg-type]
            for name in group:
                if name in self.children:
                    self.children[name].end(time.monotonic() + 15)


@contextlib.contextmanager
def own_pool(workers: int, **settings: str) -> Iterator[OwnPool]:
    """Run a pool of one's own; `settings` are GDSOLVER_* variables."""
    with (
        tempfile.TemporaryDirectory(prefix="gdsolver-bench-") as folder,
        socket.create_server(("127.0.0.1", 0), backlog=512) as listener,
    ):
        pool = OwnPool(workers, Path(folder), listener, dict(settings))
        try:
            pool.start()
            yield pool
        except BaseException:
            log = pool.folder / "pool.log"
            if log.exists():
                sys.stderr.write(log.read_text(errors="replace")[-6000:])
            raise
        finally:
            pool.stop()


@contextlib.contextmanager
def workless_pool() -> Iterator[OwnPool]:
    """A pool of one's own without workers, for simulated ones; its only worker made it ready and has left."""
    with own_pool(1) as pool:
        pool.signal("worker-1", signal.SIGTERM)
        until(lambda: "worker-1" in pool.dead(), 20, "the worker did not stop")
        yield pool
