"""What a worker's processes share without a lock: a byte that says stop, and the pulse of each child.

Anonymous memory that children inherit. A child may be killed at any instant, and with a lock in its hand it would keep
all others waiting for ever, as `multiprocessing.Event` does. Here everybody only writes its own bytes.
"""

import contextlib
import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from solver_service.rules.vigil import Vigil

log = structlog.get_logger()

ROW = struct.Struct("=qQ")
"""A child's process id, and how often it has beaten."""
BEAT_S = 0.5
SILENT_S = 8.0
"""With what it takes to start another child, a job hangs for less than 15."""
LOOK_S = 0.5


class Board:
    """The shared bytes of one worker with so many children."""

    def __init__(self, children: int) -> None:
        self._children = children
        self._memory = mmap.mmap(-1, ROW.size * (children + 1))

    def stop(self) -> None:
        """Say that the worker is shutting down."""
        self._memory[0] = 1

    def stopping(self) -> bool:
        """Whether it is."""
        return self._memory[0] != 0

    def write(self, child: int, *, pid: int, beats: int) -> None:
        """Show a child's pulse."""
        ROW.pack_into(self._memory, ROW.size * (1 + child % self._children), pid, beats)

    def pulses(self) -> dict[int, int]:
        """Every child's beats by its process id."""
        rows = (ROW.unpack_from(self._memory, ROW.size * (1 + child)) for child in range(self._children))
        return {pid: beats for pid, beats in rows if pid}


class Pulse:
    """Beats in a thread of a child's own, as long as that can run and the attempt is within its time."""

    def __init__(self, board: Board, child: int, *, every_s: float = BEAT_S) -> None:
        self._board = board
        self._child = child
        self._every_s = every_s
        self._until: float | None = None

    def start(self) -> None:
        """Begin to beat."""
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    @contextlib.contextmanager
    def within(self, limit_s: float) -> Iterator[None]:
        """Beat for so many seconds at most while the block lasts: what hangs longer than that is to be ended."""
        self._until = time.monotonic() + limit_s
        try:
            yield
        finally:
            self._until = None

    def _run(self) -> None:
        beats, pid = 0, os.getpid()
        while True:
            until = self._until
            if until is None or time.monotonic() < until:
                beats += 1
                self._board.write(self._child, pid=pid, beats=beats)
            time.sleep(self._every_s)


class Overseer:
    """Kills a child without a pulse, in a thread of the worker's parent; Celery then starts another one."""

    def __init__(self, board: Board, *, killed: Callable[[int], None]) -> None:
        self._board = board
        self._killed = killed
        self._vigil = Vigil(life_s=SILENT_S, every_s=LOOK_S)

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._run, name="overseer", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with contextlib.suppress(Exception):  # whatever happens: nobody else sees a child that hangs
                self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Look once."""
        for pid in self._vigil.look(now, self._board.pulses()):
            if _is_child(pid):
                log.warning("child killed: it has no pulse", pid=pid)
                os.kill(pid, signal.SIGKILL)
                self._killed(pid)


def _is_child(pid: int) -> bool:
    """Whether the process is (still) ours; the number of one that has ended may belong to somebody else by now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return not Path("/proc/self/stat").exists()  # no /proc here: a row is young, and numbers are seldom reused
    return int(fields[1]) == os.getpid()
