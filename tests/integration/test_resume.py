"""A training that is killed beside a real pool goes on with the jobs that it had sent."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import RunningPool
from trainer.pool.client import SolverClient

# The last layer of a small regression: a bounded least-squares problem, solved to its proof in milliseconds.
TRAIN = ["train", "formula", "--layer", "2", "--epochs", "40", "--sync", "--seed", "3"]


def start(folder: Path, url: str, *more: str) -> "subprocess.Popen[str]":
    program = "from trainer.lab.cli import app; app()"
    command = [sys.executable, "-c", program, *TRAIN, "--out", str(folder), "--gateway", url, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def weights(said: str) -> str:
    found = re.search(r"weights sha256 (\w+)", said)
    assert found, said
    return found[1]


def test_a_killed_run_ends_with_the_weights_of_one_that_was_left_alone(pool: RunningPool, tmp_path: Path) -> None:
    """kill -9 as soon as the first job has been posted; what the pool has solved is not solved again."""
    plain, _ = start(tmp_path / "plain", pool.url, "--run", "plain").communicate(timeout=120)
    with SolverClient(pool.url) as client:
        with start(tmp_path / "killed", pool.url, "--run", "killed") as killed:
            until = time.monotonic() + 120
            while not client.jobs(run="killed-3") and time.monotonic() < until:
                time.sleep(0.01)
            killed.send_signal(signal.SIGKILL)
        said, _ = start(tmp_path / "killed", pool.url, "--run", "killed", "--resume").communicate(timeout=120)
        jobs = {run: client.jobs(run=f"{run}-3", limit=200) for run in ("plain", "killed")}
    assert weights(said) == weights(plain)
    assert "adopted" in said
    assert len(jobs["killed"]) == len(jobs["plain"]) > 0
