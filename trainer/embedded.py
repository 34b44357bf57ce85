"""Runs a solver pool of one's own for the duration of a command: the `--local` of every command."""

import contextlib
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
LAST_LINES = 15
Command = Callable[[int, Path], Sequence[str]]


def pool_command(workers: int, data_dir: Path) -> Sequence[str]:
    """The command that starts the embedded pool on a free port; it ends when its standard input does."""
    options = ("--workers", str(workers), "--port", "0", "--data-dir", str(data_dir), "--stop-on-stdin-eof")
    return (sys.executable, "-m", "solver_service", "up", *options)


@contextmanager
def embedded_pool(
    log: Path, workers: int = 1, command: Command = pool_command, start_s: float = START_S
) -> Iterator[str]:
    """Start a pool, yield its URL, and stop it; what it says goes to the file `log`.

    It is told to end, and killed after 15 s; should this process die without a word, the pool notices at its standard
    input. EmbeddedPoolError shows its last lines if it is not ready within `start_s` seconds.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="gdsolver-", ignore_cleanup_errors=True) as data_dir,
        log.open("w") as errors,
        subprocess.Popen(
            command(workers, Path(data_dir)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is this process's to handle; the pool is told in its turn
        ) as process,
    ):
        try:
            yield _await_ready(process, log, start_s)
        finally:
            _stop(process)


def _await_ready(process: subprocess.Popen[str], log: Path, start_s: float) -> str:
    """Read the pool's standard output until it names its URL; then keep it drained."""
    found: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # closed under the reader when the pool is stopped
            for line in process.stdout:
                if line.startswith(READY) and not found:
                    found.append(line.removeprefix(READY).strip())
                    ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    in_time = ready.wait(start_s)
    if found:
        return found[0]
    if in_time:
        process.wait()
        why = f"ended with exit code {process.returncode}"
    else:
        why = f"was not ready after {start_s:g} s"
    _stop(process)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:]) or "(it said nothing)"
    raise EmbeddedPoolError(f"the embedded pool {why}; its last words:\n{last}")


def _stop(process: subprocess.Popen[str]) -> None:
    """End the pool: ask, wait, and kill if need be."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
