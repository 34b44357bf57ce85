"""Benchmarks run, in small: nobody looks at one for weeks, and a change elsewhere breaks it unnoticed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import abuse
import httpx
import numpy as np
import psutil
import pytest
from own_pool import workless_pool

from benchmarks.headline.pool import solver
from shared.snapshot import Snapshot
from tests.conftest import ROOT
from tests.processes import is_alive

SNAPSHOTS = ROOT / "benchmarks" / "snapshots"
COUNT = str(SNAPSHOTS / "digits-count-200.safetensors")
WRITERS = ("write_snapshots.py", "rivals_snapshots.py")
RUNS = {
    "nasty.py --first 3 --instances 1": "0 offenders",
    "limits.py --first 82 --jobs 1": "0 with a number that is not finite",
    f"gaps.py {SNAPSHOTS} --time 1 --only count --json F": "digits-count-400: here ",
    f"building.py {SNAPSHOTS}": "| digits-ramp-1000 | ",
    f"rivals_run.py job {COUNT} --time 1": '"claimed": ',
    f"solver_run.py gdsolver {COUNT} --time 1": '"proven": ',
}
"""Short runs, by what stands in what they print."""


def ran(line: str, folder: Path) -> str:
    """Run a benchmark as its documentation says, in a folder of its own, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    program, *words = line.split()
    command = [sys.executable, str(ROOT / "benchmarks" / program), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("line", RUNS, ids=lambda line: line.split()[0])
def test_a_short_run_ends_well(line: str, tmp_path: Path) -> None:
    """Exit status 0 and the figures that it is there for."""
    assert RUNS[line] in ran(line, tmp_path)


def test_gaps_writes_a_row_for_each_snapshot_that_it_was_asked_for(tmp_path: Path) -> None:
    """And for no other."""
    ran(f"gaps.py {SNAPSHOTS} --time 0.5 --only count-200 --json F", tmp_path)
    rows = json.loads((tmp_path / "F").read_text())["rows"]
    assert list(rows) == ["digits-count-200"]
    assert 0 < rows["digits-count-200"]["here"]["final"] <= 44


def test_snapshots_are_written_as_they_are_committed(tmp_path: Path) -> None:
    """The same files with the same data; weights may differ by rounding, which is another machine's library's."""
    for program in WRITERS:
        ran(f"{program} made", tmp_path)
    made = {path.name: Snapshot.from_bytes(path.read_bytes()) for path in (tmp_path / "made").iterdir()}
    kept = {path.name: Snapshot.from_bytes(path.read_bytes()) for path in SNAPSHOTS.iterdir()}
    assert made.keys() == kept.keys()
    for name, snapshot in kept.items():
        assert (made[name].note, made[name].task) == (snapshot.note, snapshot.task)
        for tensor, values in snapshot.tensors().items():
            np.testing.assert_allclose(made[name].tensors()[tensor], values, rtol=1e-3, atol=1e-4, err_msg=name)


def new_since(before: list[psutil.Process]) -> list[psutil.Process]:
    """Processes of this one that were not there, and have not ended."""
    return [each for each in psutil.Process().children(recursive=True) if each not in before and is_alive(each)]


def own_solver() -> AbstractContextManager[Any]:
    return solver(None)


@pytest.mark.parametrize(
    ("pool", "url"),
    [(workless_pool, lambda found: found.url), (own_solver, lambda found: found.client.url)],
    ids=["swarm, service, page", "headline"],
)
def test_a_pool_of_a_benchmark_begins_and_ends(pool: Callable[[], Any], url: Callable[[Any], str]) -> None:
    """Its gateway answers, and no process of it is left."""
    before = psutil.Process().children(recursive=True)
    with pool() as found:
        assert httpx.get(f"{url(found)}/healthz").status_code == 200
    assert not new_since(before)


def test_abuse_is_answered_as_expected() -> None:
    """Two kinds that take no time, on the pool that `make bench-abuse` has; no process of it is left."""
    before = psutil.Process().children(recursive=True)
    phases, latencies = abuse.run(connections=10, seconds=0.2, only=("a foreign Host", "a gzip body"))
    assert [phase.name for phase in phases] == ["idle", "a gzip body", "a foreign Host"]
    assert all(phase.as_expected for phase in phases)
    assert latencies
    assert not new_since(before)
