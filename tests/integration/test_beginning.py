"""`gdsolver-pool up` where something is wrong at the beginning: it says what, or goes on in spite of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, wait_for

UP = [sys.executable, "-m", "solver_service", "up", "--workers", "1", "--port", "0", "--data-dir"]


def test_a_damaged_log_is_told_at_once_in_redis_own_words(tmp_path: Path) -> None:
    """And not after a minute of Redis ending again and again."""
    for name in ("appendonly.aof", "appendonlydir/appendonly.aof.manifest"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("this is no log\n")
    ended = subprocess.run([*UP, str(tmp_path)], check=False, cwd=ROOT, capture_output=True, text=True, timeout=40)
    assert ended.returncode == 1
    assert "Redis ended at once" in ended.stderr
    assert "format" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_pool_that_waits_for_redis_ends_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    """A Redis that never answers: here a program that only has its name."""
    fake = tmp_path / "redis-server"
    fake.write_text(f"#!{sys.executable}\nimport pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(600)\n")
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = [*UP, str(tmp_path / "data")]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for((tmp_path / "begun").exists)
        time.sleep(0.3)
        begun = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert time.monotonic() - begun < 8
    assert process.returncode == 0, said
    assert "no process is left" in said
