"""A pool that is killed in the middle of a training run: the run ends as if it had never been there."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import ROOT, start_pool, wait_for

TRAIN = [sys.executable, "-c", "import gdsolver; gdsolver.main()", "train", "digits", "--epochs", "60"]


def fingerprint(printed: str) -> str:
    (found,) = re.findall(r"weights sha256 ([0-9a-f]{64})", printed)
    return str(found)


def test_a_run_whose_pool_is_killed_equals_plain_gd(tmp_path: Path) -> None:
    """Killed before any adoption: exit 0, 'the pool was lost', and plain GD's weights bit for bit."""
    plain = subprocess.run(
        [*TRAIN, "--method", "adam", "--out", str(tmp_path / "plain")],
        check=True, capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    pool = start_pool(tmp_path)
    (worker,) = httpx.get(f"{pool.url}/v1/workers").json()["workers"]
    os.kill(worker["pid"], signal.SIGSTOP)  # so that no job is answered before the kill
    command = [*TRAIN, "--gateway", pool.url, "--out", str(tmp_path / "hybrid")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    wait_for(lambda: httpx.get(f"{pool.url}/v1/jobs").json()["jobs"] != [] or run.poll() is not None)
    os.killpg(pool.process.pid, signal.SIGKILL)
    pool.process.wait()
    printed, _ = run.communicate(timeout=120)
    assert run.returncode == 0, printed
    assert "the pool was lost" in printed
    assert fingerprint(printed) == fingerprint(plain.stdout)
    report = json.loads((tmp_path / "hybrid" / "report.json").read_text())
    assert report["pool_lost"]
    assert report["methods"][0]["adopted"] == 0
