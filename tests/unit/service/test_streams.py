"""Standard streams that are closed, full, or whose reader has gone: commands do their work all the same."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from solver_service import logs
from solver_service.cli import _say_ready
from tests.conftest import ROOT

TRAINER = [sys.executable, "-c", "import gdsolver; gdsolver.main()", "--help"]
POOL = [sys.executable, "-m", "solver_service", "keys", "list", "--redis-url", "unix:///nowhere/redis.sock"]
UP = [sys.executable, "-m", "solver_service", "up", "--data-dir", "/dev/null/x"]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [(TRAINER, 0, ""), (POOL, 1, "Redis"), (UP, 1, "cannot hold the pool's data")],
    ids=["gdsolver", "keys", "up"],
)
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_one_that_nobody_reads(
    tmp_path: Path, command: list[str], code: int, words: str, closed: str
) -> None:
    """Whatever is said elsewhere is said, and the exit status is what it would be."""
    said = tmp_path / "said"
    shell = ["sh", "-c", f'said=$1; shift; exec "$@" {closed if "2" in closed else f"{closed} 2>$said"}']
    done = subprocess.run(
        [*shell, "sh", str(said), *command], check=False, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=60
    )
    assert done.returncode == code
    if "2" not in closed:
        assert words in said.read_text()
        assert "Traceback" not in said.read_text()


class Broken(io.TextIOBase):
    """A stream that takes nothing."""

    def __init__(self, number: int) -> None:
        self.number = number

    def write(self, text: str, /) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        raise OSError


@pytest.fixture
def _logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logs")
@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_a_log_that_nobody_takes_ends_nobody(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Neither our own lines nor those of libraries raise, and later ones are there when somebody takes them again."""
    monkeypatch.setattr(sys, "stderr", Broken(number))
    logs.configure()
    structlog.get_logger().warning("lost")
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    structlog.get_logger().warning("kept")
    assert "kept" in later.getvalue()
    assert "lost" not in later.getvalue()


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_a_pool_whose_address_nobody_reads_is_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Its address is told on standard error then, with the reason."""
    monkeypatch.setattr(sys, "stdout", Broken(number))
    _say_ready(Path("data"), "http://127.0.0.1:1")
    said = capsys.readouterr().err
    assert "gdsolver-pool ready: http://127.0.0.1:1" in said
    assert os.strerror(number) in said
