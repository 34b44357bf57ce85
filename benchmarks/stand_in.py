"""A worker for benchmarks alone: snapshots whose note says so are not solved, but crash it, sleep, or answer at once.

    python benchmarks/stand_in.py NAME SLOTS

It is an ordinary worker in everything else. Nothing in the service knows of these notes: they mean something only to a
worker that was started by this file.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.given import usage
from shared.contracts import Backend, JobResult, JobSpec, ObjectiveReport, Sizes, SolveStatus, Timings
from shared.snapshot import Snapshot
from solver_service import logs
from solver_service.milp.solve import Solution, solve
from solver_service.settings import Settings
from solver_service.worker import tasks
from solver_service.worker.app import run_worker

POISON, SLEEP, NOTHING = "poison", "sleep", "nothing"


def at_once(spec: JobSpec) -> JobResult:
    """The result of a job on which nothing was done."""
    return JobResult(
        objective=ObjectiveReport(name=spec.objective, start=0, final=0, bound=0, gap=0),
        status=SolveStatus.OPTIMAL,
        improved=False,
        changed_weights=0,
        timings=Timings(),
        sizes=Sizes(),
        nodes=0,
        incumbents=[],
        backend=Backend(name="stand-in", version="1"),
    )


def acted(snapshot: Snapshot, spec: JobSpec, *arguments: Any, **options: Any) -> Solution:
    """Do what the snapshot's note says, or solve."""
    part = snapshot.note.get("benchmark")
    if part is None:
        return solve(snapshot, spec, *arguments, **options)
    if part == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    if part == SLEEP:
        time.sleep(float(snapshot.note["seconds"]))
    return Solution(at_once(spec), snapshot.weight, snapshot.bias)


if __name__ == "__main__":
    given = usage(str(__doc__), "NAME", "SLOTS")
    logs.configure()
    tasks.solve = acted
    run_worker(Settings(), name=given.NAME, slots=int(given.SLOTS))
