"""`gdsolver-pool up` where something is wrong at the beginning: it says what, or goes on in spite of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, wait_for
from tests.processes import command_line, is_alive, living_children

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


def test_a_pool_serves_although_nobody_reads_what_it_says(tmp_path: Path) -> None:
    """`up 2>&1 | head -1`, with a variable that a flag overrules, below a folder of a name too long for sockets."""
    long, data = tmp_path / ("d" * 100), tmp_path / "data"
    long.mkdir()
    environment = {**os.environ, "TMPDIR": str(long), "GDSOLVER_PORT": "many", "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(
        [*UP, str(data)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        url = json.loads((data / "pool.json").read_text())["url"]
        wait_for(lambda: answers(url))
        gateway = next(child for child in living_children(process.pid) if "gateway" in command_line(child))
        gateway.kill()
        wait_for(lambda: not is_alive(gateway))
        wait_for(lambda: answers(url))
    finally:
        process.terminate()
        assert process.wait(30) == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False
