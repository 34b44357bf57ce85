"""What a branching solver says itself, on its way into the job's log, once its run takes long enough to be looked into.

SCIP writes a file, because a handler of its messages would cost the solve Python's lock at each of them; HiGHS hands
messages over one by one. Both are passed on in pieces, by the solver's own thread, and neither is ever a reason to end.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory

from solver_service.milp.core.control import Control

WORTH_S = 1.0
"""Of a run that is shorter the job's log tells the begin and the end alone."""
EVERY_S = 0.5
MOST_WAITING = 64 * 1024
"""Characters that wait until the run is long enough."""
MOST_BYTES = 8 * 1024 * 1024
"""A solver that has written so much is not listened to any more: its parameters make it talk."""


class OwnWords:
    """Collects a solver's text, and passes it on every half a second after the first one."""

    def __init__(self, control: Control, clock: Callable[[], float] = time.monotonic) -> None:
        self._control, self._clock = control, clock
        self._waiting: list[str] = []
        self._size = 0
        self._worth = clock() + WORTH_S
        self._next = self._worth

    def add(self, text: str) -> None:
        """Take text from the solver; of what comes too fast the newest is left out."""
        if self._size < MOST_WAITING:
            self._waiting.append(text)
            self._size += len(text)
        self.pass_on()

    def pass_on(self, *, last: bool = False) -> None:
        """Pass what has come on, if it is time."""
        now = self._clock()
        if self._waiting and now >= (self._worth if last else self._next):
            self._next = now + EVERY_S
            self._control.write("".join(self._waiting))
            self._waiting.clear()
            self._size = 0


class LogFile:
    """A file that a solver appends to, read on from where it was read last."""

    def __init__(self, file: FileIO, words: OwnWords, quieten: Callable[[], None]) -> None:
        self._file, self._words, self._quieten = file, words, quieten
        self._read = 0
        self._next = 0.0

    def pump(self) -> None:
        """Read on, every half a second at most."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + EVERY_S
            self._read_on()

    def finish(self) -> None:
        """Read the rest, and pass it on."""
        self._read_on()
        self._words.pass_on(last=True)

    def _read_on(self) -> None:
        with contextlib.suppress(OSError):
            data = self._file.readall()
            self._read += len(data)
            self._words.add(data.decode(errors="replace"))
            if self._read > MOST_BYTES:
                self._quieten()


@contextlib.contextmanager
def log_file(control: Control, name_it: Callable[[str | None], None]) -> Iterator[LogFile | None]:
    """A log file while a solver runs, whose name is told to `name_it` (None: no longer); None where nobody listens."""
    file = _opened(name_it) if control.is_logged else None
    if file is None:
        yield None
        return
    log = LogFile(file, OwnWords(control), lambda: name_it(None))
    try:
        yield log
    finally:
        name_it(None)  # SCIP closes it
        log.finish()
        file.close()


def _opened(name_it: Callable[[str | None], None]) -> FileIO | None:
    """The file as the solver has opened it, to be read; None where no folder has room for one.

    It has no name any more, so that a process that is killed leaves none behind.
    """
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder, "solver.log")
            name_it(str(path))
            return path.open("rb", buffering=0)
    except OSError:
        return None
