"""Runs a solver pool of one's own for the duration of a command: the `--local` of every command."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import EmbeddedPoolError

READY = "gdsolver-pool ready: "
START_S = 60.0
STOP_S = 15.0
READER_S = 2.0
LAST_LINES = 15
FOREIGN = ("GDSOLVER_API_KEY", "GDSOLVER_HOST", "GDSOLVER_PORT", "GDSOLVER_REDIS_URL")
PACKAGES = ("celery", "fastapi", "highspy", "pydantic_settings", "pyscipopt", "redis", "structlog", "uvicorn")
"""What a pool imports and a trainer need not have."""
SHORT, MOST_FOR_SOCKETS = "/tmp", 70
"""Bytes of a folder's name: that of a socket below it takes 29 more, and has 103 at most on macOS, 107 on Linux."""
Command = Callable[[int, Path], Sequence[str]]


def pool_command(workers: int, data_dir: Path) -> Sequence[str]:
    """The command that starts the embedded pool on a free port; it ends when its standard input does."""
    options = ("--workers", str(workers), "--host", "127.0.0.1", "--port", "0", "--data-dir", str(data_dir))
    return (sys.executable, "-m", "solver_service", "up", *options, "--stop-on-stdin-eof")


def _check_packages() -> None:
    """Raise EmbeddedPoolError, with the cure, where a pool cannot run."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        lacks = f"a pool of one's own needs {', '.join(missing)}, which this Python does not have"
        raise EmbeddedPoolError(f"{lacks}; install them with: pip install 'gdsolver[local]'")


def _own_environment() -> dict[str, str]:
    """The environment without the settings meant for other pools: this one is private, and needs no key.

    Where the folder for temporary files has too long a name for its sockets, it takes the system's own.
    """
    own = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    if len(os.fsencode(tempfile.gettempdir())) > MOST_FOR_SOCKETS and os.access(SHORT, os.W_OK | os.X_OK):
        own["TMPDIR"] = SHORT
    return own


@contextmanager
def embedded_pool(
    log: Path, workers: int = 1, command: Command = pool_command, start_s: float = START_S
) -> Iterator[str]:
    """Start a pool, yield its URL, and stop it; what it says goes to the file `log`.

    It is told to end, and killed after 15 s; should this process die without a word, the pool notices at its standard
    input. EmbeddedPoolError names the packages that it lacks, or shows its last lines if it is not ready within
    `start_s` seconds.
    """
    if command is pool_command:
        _check_packages()
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="gdsolver-", ignore_cleanup_errors=True) as data_dir,
        log.open("w") as errors,
    ):
        process = subprocess.Popen(
            command(workers, Path(data_dir)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_own_environment(),
            start_new_session=True,  # Ctrl-C is this process's to handle; the pool is told in its turn
        )
        first_words = _FirstWords(process)
        try:
            yield _await_ready(process, first_words, log, start_s)
        finally:
            _stop(process)
            first_words.join(READER_S)


class _FirstWords(threading.Thread):
    """Reads the pool's standard output to its end: `url` is what it named, `ready` is set then or at the end.

    It alone closes the pipe: a killed pool may leave children behind that hold the other end, and closing it from
    another thread would wait for them.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(name="gdsolver-pool-output", daemon=True)
        self.url = ""
        self.ready = threading.Event()
        self._process = process
        self.start()

    def run(self) -> None:
        """Read until the pool has closed its end."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.startswith(READY) and not self.url:
                    self.url = line.removeprefix(READY).strip()
                    self.ready.set()
        self.ready.set()


def _await_ready(process: subprocess.Popen[str], said: _FirstWords, log: Path, start_s: float) -> str:
    """Wait until the pool names its URL, or fail with its last words."""
    in_time = said.ready.wait(start_s)
    if said.url:
        return said.url
    _stop(process)
    why = f"ended with exit code {process.returncode}" if in_time else f"was not ready after {start_s:g} s"
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:]) or "(it said nothing)"
    raise EmbeddedPoolError(f"the embedded pool {why}; its last words:\n{last}")


def _stop(process: subprocess.Popen[str]) -> None:
    """End the pool: close its input, ask, wait, and kill what is left of its own process group."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
