"""A pool's worker for the ablation: a job's run says whether the solver, its heuristics or a rival script answers.

    python -m benchmarks.headline.worker NAME SLOTS

It is an ordinary worker in everything else, and what answers is an ordinary job to the trainer.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.given import usage
from benchmarks.rivals_case import Case, Clock
from benchmarks.rivals_descents import recipe
from shared.contracts import Backend, JobResult, JobSpec, ObjectiveReport, Sizes, SolveStatus, Timings
from shared.snapshot import FloatArray, Snapshot
from solver_service import logs
from solver_service.milp.core.solution import Solution
from solver_service.milp.final_layer import solve as final_layer
from solver_service.milp.network import solve as network
from solver_service.milp.solve import solve
from solver_service.settings import Settings
from solver_service.worker import tasks
from solver_service.worker.app import run_worker


def answer(snapshot: Snapshot, spec: JobSpec, *arguments: Any, **options: Any) -> Solution:
    """Solve by what the first word of the job's run names."""
    match (spec.run or "").split("-")[0]:
        case "rival":
            return by_rival(snapshot, spec)
        case "heuristics":
            with heuristics_only():
                return solve(snapshot, spec, *arguments, **options)
    return solve(snapshot, spec, *arguments, **options)


@contextlib.contextmanager
def heuristics_only() -> Iterator[None]:
    """No relaxation, no bound and no branching for what is not convex; what is convex is still solved as such."""
    alone = ("left out for the ablation", SolveStatus.GAP_REACHED)
    with (
        mock.patch.object(final_layer, "_mixed_integer", final_layer._searched),
        mock.patch.object(network, "_obstacle", return_value=alone),
    ):
        yield


def by_rival(snapshot: Snapshot, spec: JobSpec) -> Solution:
    """What one would script in ten minutes for this job, for as long as the job may take (`benchmarks/rivals*`)."""
    case = Case(snapshot, spec, Clock(0.95 * spec.limits.time_s))
    recipe(case, np.random.default_rng(spec.solver.seed))
    (weight, bias), *tail = case.layers(case.vector)
    moved: dict[str, FloatArray] = {}
    for index, ((tail_weight, tail_bias), part) in enumerate(zip(tail, case.parts[1:], strict=True)):
        if isinstance(part.weight, slice):
            moved[f"tail.{index}.weight"] = tail_weight.astype(np.float32)
            if tail_bias is not None:
                moved[f"tail.{index}.bias"] = tail_bias.astype(np.float32)
    report = ObjectiveReport(name=spec.objective, start=case.start_value, final=case.best, bound=0, gap=1)
    result = JobResult(
        objective=report,
        status=SolveStatus.TIME_LIMIT,
        improved=case.best < case.start_value,
        changed_weights=int((case.vector != case.start).sum()),
        timings=Timings(),
        sizes=Sizes(),
        nodes=0,
        incumbents=[],
        backend=Backend(name="rival script", version="1"),
    )
    return Solution(result, weight.astype(np.float32), None if bias is None else bias.astype(np.float32), moved)


if __name__ == "__main__":
    given = usage(str(__doc__), "NAME", "SLOTS")
    logs.configure()
    tasks.solve = answer
    run_worker(Settings(), name=given.NAME, slots=int(given.SLOTS))
