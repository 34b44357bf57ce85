"""Several gateway processes on one listening socket, started again when they die and killed when they hang.

All accept from one queue, so that a process that dies loses none but the requests that it was at; with SO_REUSEPORT
each would have a queue of its own, and take those who knock there with it. What they count lies in files of a folder
that they share (prometheus_client's multiprocess mode), so that any of them shows the sums of all, the dead ones'
included.
"""

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from prometheus_client.multiprocess import mark_process_dead

from solver_service.gateway.services import Services
from solver_service.pool.children import Child, python_path
from solver_service.settings import Settings

log = structlog.get_logger()

TICK_S, LOOK_S = 0.1, 1.0
STOP_WITHIN_S = 12.0
"""A little more than a gateway gives the requests that it is at, and less than `up` gives all of us."""
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own variable; it is read when the library is imported."""


@dataclass
class Processes:
    """So many gateways on one socket; each shows by a pulse, a file whose time it moves on, that its loop turns."""

    count: int
    settings: Settings
    listener: socket.socket
    options: Sequence[str] = ()
    _children: list[Child] = field(default_factory=list)
    _pulses: dict[str, tuple[Path, float]] = field(default_factory=dict)
    _pids: dict[str, int] = field(default_factory=dict)

    def run(self, ended: Callable[[], bool]) -> list[str]:
        """Tend the processes until `ended` says so, then stop all; returns the names of those that had to be killed."""
        with tempfile.TemporaryDirectory(prefix="gdsolver-gateways-") as folder:
            environment = {
                **self.settings.environment(os.environ),  # no arguments: they may hold a password
                FOLDER: folder,
                "PYTHONPATH": python_path(),
            }
            try:
                for number in range(1, self.count + 1):
                    self._add(f"gateway-{number}", Path(folder), environment)
                host, port = self.listener.getsockname()[:2]
                log.info("gateways begin", host=host, port=port, processes=self.count)
                self._tend_until(ended, environment, folder)
            finally:
                killed = self._stop()
        return killed

    def _add(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        pulse, fd = folder / f"{name}.pulse", self.listener.fileno()
        pulse.touch()
        program = [sys.executable, "-m", "solver_service", "gateway", "--host", self.settings.host]
        child = Child(name, [*program, "--fd", str(fd), "--pulse", str(pulse), *self.options], (fd,))
        child.start(environment)
        self._pulses[name] = pulse, pulse.stat().st_mtime
        self._children.append(child)

    def _tend_until(self, ended: Callable[[], bool], environment: dict[str, str], folder: str) -> None:
        looked = time.monotonic()
        while not ended():
            for child in self._children:
                child.tend(environment)
                self._forget_gauges(child, folder)
            if time.monotonic() - looked >= LOOK_S:
                looked = time.monotonic()
                for child in self._children:
                    child.watch(self._beats(child.name))
            time.sleep(TICK_S)

    def _beats(self, name: str) -> bool:
        """Whether the pulse has moved on since the last look."""
        pulse, before = self._pulses[name]
        now = pulse.stat().st_mtime
        self._pulses[name] = pulse, now
        return now != before

    def _forget_gauges(self, child: Child, folder: str) -> None:
        """What a dead process held, nobody holds; what it counted stays counted."""
        pid = 0 if child.process is None else child.process.pid
        before = self._pids.get(child.name, pid)
        self._pids[child.name] = pid
        if before not in (0, pid):
            mark_process_dead(before, folder)  # type: ignore[no-untyped-call]

    def _stop(self) -> list[str]:
        for child in self._children:
            child.signal(signal.SIGTERM)
        end = time.monotonic() + STOP_WITHIN_S
        return [child.name for child in self._children if child.end(end)]


def beating(pulse: Path, services: Services) -> Callable[[], Awaitable[None]]:
    """What a gateway does each second, in its event loop: move its pulse on, and tell how many bytes it holds."""

    async def beat() -> None:
        pulse.touch()
        services.traffic.hold(services.uploads.held, services.downloads.held)

    return beat
