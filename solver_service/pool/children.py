"""Child processes that are started again when they die, and killed when they hang."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger()

FIRST_PAUSE_S, LONGEST_PAUSE_S, HEALTHY_S = 0.5, 10.0, 30.0
PATIENCE_S = 8.0
"""A child that has not been well for so long hangs, by looks that came one after the other."""
GAP_S = 4.0
"""Who has not looked for so long was asleep (a frozen machine), and so perhaps was the child: it begins anew."""
BEGINNING_S = 60.0
"""So long may a child take to be well for the first time."""


def python_path() -> str:
    """PYTHONPATH by which a child finds the same code as its parent."""
    root = Path(__file__).resolve().parents[2]
    return os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))


@dataclass
class Vigil:
    """Whether a child hangs, by what was seen of it in time that the watcher itself was awake."""

    clock: Callable[[], float] = time.monotonic
    _looked: float = float("-inf")
    _unwell_since: float | None = None
    _ever_well: bool = False
    _began: float | None = None

    def hangs(self, well: bool | None) -> bool:
        """Look once: the child is well, or not, or it cannot be told (None), which counts as a gap."""
        now = self.clock()
        gap = now - self._looked > GAP_S
        self._looked = now
        self._began = now if self._began is None or (gap and not self._ever_well) else self._began
        if well or well is None or gap:
            self._ever_well |= bool(well)
            self._unwell_since = None if well else now
            return False
        self._unwell_since = now if self._unwell_since is None else self._unwell_since
        allowed = PATIENCE_S if self._ever_well else BEGINNING_S
        return now - (self._unwell_since if self._ever_well else self._began) >= allowed


@dataclass
class Child:
    """One supervised process: what to run, and when it may be started again."""

    name: str
    command: list[str]
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    pause: float = FIRST_PAUSE_S
    not_before: float = 0.0
    vigil: Vigil = field(default_factory=Vigil)

    def start(self, environment: dict[str, str]) -> None:
        """Start it in a session of its own, tied to this process' life; a terminal's Ctrl-C does not reach it."""
        lifeline = [sys.executable, "-m", "solver_service.pool.lifeline"]
        self.vigil = Vigil()
        self.process = subprocess.Popen(
            [*lifeline, *self.command],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            pass_fds=self.pass_fds,
            start_new_session=True,
            env=environment,
        )
        self.began = time.monotonic()

    def tend(self, environment: dict[str, str]) -> None:
        """Start it again if it has died, with a pause that grows while it keeps dying."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            log.warning("child died", child=self.name, code=self.process.returncode, again_in_s=self.pause)
            self.process = None
            self.pause = FIRST_PAUSE_S if now - self.began > HEALTHY_S else self.pause
            self.not_before = now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE_S)
        if self.process is None and now >= self.not_before:
            self.start(environment)

    def watch(self, well: bool | None) -> None:
        """Kill it if it hangs; it is then started again like one that died."""
        process = self.process
        if process is not None and process.poll() is None and self.vigil.hangs(well):
            log.warning("child killed: it hangs", child=self.name)
            process.kill()

    def code(self) -> int | None:
        """The exit code of a process that has ended and has not been started again."""
        return None if self.process is None else self.process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it is running."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def end(self, until: float) -> bool:
        """Wait for its end, and kill it when the time is over; whether it had to be killed."""
        if self.process is None:
            return False
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("child killed: it did not stop in time", child=self.name)
            self.process.kill()
            self.process.wait()
            return True
        return False
