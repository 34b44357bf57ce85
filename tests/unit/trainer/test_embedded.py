"""The embedded pool: started, named, and always ended."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainer.errors import EmbeddedPoolError
from trainer.pool.embedded import embedded_pool

GOOD = """
import os, sys, time
open(os.path.join(sys.argv[1], "pid"), "w").write(str(os.getpid()))
print("gdsolver-pool ready: http://127.0.0.1:1234", flush=True)
print("working", file=sys.stderr, flush=True)
time.sleep(60)
"""
BAD = "import sys; print('redis-server is missing', file=sys.stderr); sys.exit(3)"


def script(text: str, folder: Path) -> object:
    def command(workers: int, data_dir: Path) -> Sequence[str]:
        return [sys.executable, "-c", text, str(folder)]

    return command


def test_a_pool_is_started_and_ended(tmp_path: Path) -> None:
    """Its URL is what it printed, its words are in the log, and it is gone afterwards."""
    with embedded_pool(tmp_path / "logs" / "pool.log", command=script(GOOD, tmp_path)) as url:  # type: ignore[arg-type]
        assert url == "http://127.0.0.1:1234"
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert "working" in (tmp_path / "logs" / "pool.log").read_text()


def test_a_pool_that_cannot_start_shows_its_last_words(tmp_path: Path) -> None:
    """The error holds the exit code and what the program said."""
    with (
        pytest.raises(EmbeddedPoolError, match=r"(?s)exit code 3.*redis-server is missing"),
        embedded_pool(tmp_path / "pool.log", command=script(BAD, tmp_path)),  # type: ignore[arg-type]
    ):
        pass


def test_a_pool_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    """After the time given the start is given up, and nothing is left running."""
    silent = GOOD.replace("gdsolver-pool ready", "not yet")
    with (
        pytest.raises(EmbeddedPoolError, match=r"not ready after 1 s"),
        embedded_pool(tmp_path / "pool.log", command=script(silent, tmp_path), start_s=1.0),  # type: ignore[arg-type]
    ):
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_failing_user_leaves_no_pool(tmp_path: Path) -> None:
    """An error in the body, Ctrl-C included, ends the pool too."""
    with (
        pytest.raises(KeyboardInterrupt),
        embedded_pool(tmp_path / "pool.log", command=script(GOOD, tmp_path)),  # type: ignore[arg-type]
    ):
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


ORPHANING = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(8)"], start_new_session=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1] + "/pid", "w").write(str(child.pid))
print("gdsolver-pool ready: http://127.0.0.1:1234", flush=True)
time.sleep(60)
"""


def test_a_killed_pool_s_children_hold_nobody_up(tmp_path: Path) -> None:
    """When the pool is killed outright, its children are ended with it, and an output that they hold open is let go."""
    started = time.monotonic()
    with embedded_pool(tmp_path / "pool.log", command=script(ORPHANING, tmp_path)):  # type: ignore[arg-type]
        child = int((tmp_path / "pid").read_text())
        os.kill(os.getpgid(child), signal.SIGKILL)
    assert time.monotonic() - started < 15
    until = time.monotonic() + 5
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
