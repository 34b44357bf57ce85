"""The pool that answers the hybrid's jobs, and how much CPU it has used: a solver's time is the hybrid's cost."""

import contextlib
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.own_pool import OwnPool
from solver_service.pool.local import Child
from trainer.pool.client import SolverClient


class AblationPool(OwnPool):
    """A pool of one's own whose workers also know the solver's stand-ins."""

    def add_worker(self, index: int, *, slots: int = 1) -> None:
        """Start one more worker."""
        name = f"worker-{index}"
        self.add(Child(name, [sys.executable, "-m", "benchmarks.headline.worker", name, str(slots)]))

    def cpu_s(self) -> float:
        """CPU seconds that all its processes have had since it started, those that have ended included."""
        return sum(_cpu_of_tree(self.pid(name)) for name in self.children)


def _cpu_of_tree(pid: int) -> float:
    """Of a process, its living descendants, and the ended ones that they have waited for."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return sum(_cpu_of(each) for each in (process, *process.children(recursive=True)))
    return 0.0


def _cpu_of(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(sum(process.cpu_times()[:4]))  # user, system, and both of its ended children
    return 0.0


@dataclass(frozen=True)
class Solver:
    """A client of a pool, the CPU seconds of that pool so far, and whether it can stand in other solvers."""

    client: SolverClient
    cpu_s: Callable[[], float] | None
    ablates: bool


@contextlib.contextmanager
def solver(gateway: str | None) -> Iterator[Solver]:
    """A pool of one's own with one worker, or the one at an address: its jobs' wall time then stands for its CPU."""
    if gateway:
        with SolverClient(gateway) as client:
            yield Solver(client, None, ablates=False)
        return
    with (
        tempfile.TemporaryDirectory(prefix="gdsolver-bench-") as folder,
        socket.create_server(("127.0.0.1", 0), backlog=512) as listener,
    ):
        pool = AblationPool(1, Path(folder), listener)
        try:
            pool.start()
            with SolverClient(pool.url) as client:
                yield Solver(client, pool.cpu_s, ablates=True)
        finally:
            pool.stop()
