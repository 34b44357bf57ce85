"""One snapshot, one method, one process: `benchmarks/solver.py` starts it, the last line it prints is the record.

usage: python benchmarks/solver_run.py METHOD FILE --time 60 --seed 0

The clock runs from bytes in memory to the result; imports are done by then. Every incumbent is recomputed by
`shared.objectives` from float32 weights, after the clock has stopped.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.given import bytes_of
from benchmarks.peers import Trace, run_highs, run_scip, textbook_model
from shared.contracts import JobSpec, SolveStatus
from shared.snapshot import Snapshot
from solver_service.milp.backends import scip  # loaded before the clock runs
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Array, Problem, problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.formulation.reference import reference_model
from solver_service.milp.solve import solve

METHODS = ("gdsolver", "reference-scip", "plain-scip", "plain-highs")
LINEAR = ("zero_one", "ramp", "hinge", "mae", "max_error", "outliers", "quantile")
"""The objectives that the textbook's model is of."""
assert scip


def obstacle(snapshot: Snapshot, method: str) -> str | None:
    """Why a snapshot is not one to compare methods on, or not by this one; None where it is."""
    asked = snapshot.note.get("objective")
    if not snapshot.is_final_identity or snapshot.note.get("constraints"):
        return "the peers know neither hidden layers nor constraints"
    if method == "reference-scip" and asked != "zero_one":
        return f"reference-scip counts errors (zero_one); it is not for {asked}"
    if method.startswith("plain-") and asked not in LINEAR:
        return f"{method} has a model of {', '.join(LINEAR)}; it is not for {asked}"
    return None


def spec_of(note: dict[str, Any], time_s: float, seed: int) -> JobSpec:
    """The job that a snapshot's note describes."""
    return JobSpec(
        objective=note["objective"],
        radius=note.get("radius"),
        tolerance=note.get("tolerance"),
        margin=note.get("margin", 1.0),
        limits={"time_s": time_s, "memory_mb": 4000},
        solver={"seed": seed},
    )


def run_ours(data: bytes, note: dict[str, Any], time_s: float, seed: int) -> dict[str, Any]:
    """GDSolver; its trajectory is what it reported."""
    spec = spec_of(note, time_s, seed)
    began = time.perf_counter()
    solution = solve(Snapshot.from_bytes(data), spec, Control())
    seconds = time.perf_counter() - began
    result = solution.result
    points = [[point.t_s, point.objective, point.bound] for point in result.incumbents]
    return {
        "points": [*points, [seconds, result.objective.final, result.objective.bound]],
        "start": result.objective.start,
        "seconds": seconds,
        "build_s": result.timings.build_s,
        "proven": result.status is SolveStatus.OPTIMAL,
        "status": str(result.status),
        "nodes": result.nodes,
        "sizes": result.sizes.model_dump(),
        "notes": result.notes,
    }


def run_peer(method: str, data: bytes, note: dict[str, Any], time_s: float, seed: int) -> dict[str, Any]:
    """A peer; None of its time is counted that we spend on recomputing."""
    spec = spec_of(note, time_s, seed)
    began = time.perf_counter()
    problem = problem_of(Snapshot.from_bytes(data), spec)
    if method == "reference-scip":
        model = reference_model(problem, requirements_of(problem))
    else:
        model = textbook_model(problem)
    trace = Trace(began, model.change_columns)
    (run_highs if method == "plain-highs" else run_scip)(model, trace, time_s=time_s, seed=seed)
    start = spec.goal.value(problem.snapshot, problem.snapshot.weight, problem.snapshot.bias)
    return {
        "points": _trajectory(problem, trace, start),
        "start": start,
        "claimed": min((claimed for _, _, claimed in trace.solutions), default=None),
        "seconds": trace.seconds,
        "build_s": trace.built_s,
        "proven": trace.proven,
        "status": "optimal" if trace.proven else "limit",
    }


def _trajectory(problem: Problem, trace: Trace, start: float) -> list[list[float]]:
    """(seconds, best recomputed value so far, best bound so far); a peer may keep the snapshot's own weights."""
    best, bound, points = start, 0.0, []
    events: list[tuple[float, Array | None, float]] = [*trace.solutions, *((t, None, b) for t, b in trace.bounds)]
    for seconds, change, value in sorted(events, key=lambda event: event[0]):
        if change is None:
            bound = max(bound, value)
        else:
            best = min(best, _recomputed(problem, change))
        points.append([seconds, best, bound])
    return points


def _recomputed(problem: Problem, change: Array) -> float:
    """The objective of a float64 solution that is cast to float32, as a user would."""
    snapshot, step = problem.snapshot, problem.radius * change.reshape(problem.radius.shape)
    weight = (snapshot.weight + step[:, :-1]).astype(np.float32)
    bias = None if snapshot.bias is None else (snapshot.bias + step[:, -1]).astype(np.float32)
    return problem.objective.value(snapshot, weight, bias)


def main() -> None:
    """Run once and print the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--time", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = bytes_of(arguments.file)
    snapshot = Snapshot.from_bytes(data)
    note = dict(snapshot.note)
    if arguments.method != "gdsolver" and (why := obstacle(snapshot, arguments.method)):
        sys.exit(f"{arguments.file.name}: {why}")
    before = time.process_time()
    if arguments.method == "gdsolver":
        record = run_ours(data, note, arguments.time, arguments.seed)
    else:
        record = run_peer(arguments.method, data, note, arguments.time, arguments.seed)
    record["cpu_s"] = time.process_time() - before
    record["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record["objective"] = note["objective"]
    print(json.dumps(record))


if __name__ == "__main__":
    main()
