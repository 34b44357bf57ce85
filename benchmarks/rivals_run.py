"""One snapshot, one method, one process: `benchmarks/rivals.py` starts it, the last line it prints is the record.

usage: python benchmarks/rivals_run.py METHOD FILE --time 5 --seed 0 [--steps N | --nodes N] [--processor]

METHOD is `job` or a rival. The clock runs from bytes in memory on; imports are done by then. A job's weights are
recounted by the same ledger as a rival's.
"""

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.ablation import ProcessorTime
from benchmarks.given import bytes_of
from benchmarks.rivals_annealed import annealed
from benchmarks.rivals_case import Case, Clock, spec_of
from benchmarks.rivals_descents import descents, lines, polished, recipe
from benchmarks.rivals_evolution import evolution
from benchmarks.rivals_networks import can_replace, fits_least_squares, gauss, replacement, replacement_gauss
from benchmarks.rivals_smooth import regression, restarts
from shared.snapshot import Snapshot
from solver_service.milp.backends import scip  # loaded before the clock runs
from solver_service.milp.core.control import Control
from solver_service.milp.core.moved import Moved
from solver_service.milp.solve import solve

assert scip
Record = dict[str, Any]
Rival = Callable[[Case, np.random.Generator], None]


def _classes(case: Case) -> bool:
    return case.snapshot.task == "classification"


def _free_classes(case: Case) -> bool:
    return _classes(case) and not case.spec.constraints


def _plain_regression(case: Case) -> bool:
    return case.is_final and case.snapshot.task == "regression"


RIVALS: dict[str, tuple[Rival, Callable[[Case], bool]]] = {
    "recipe": (recipe, lambda case: True),
    "annealed": (annealed, _free_classes),
    "descents": (descents, _classes),
    "polished": (polished, _free_classes),
    "lines": (lines, lambda case: _classes(case) and case.is_final),
    "regression": (regression, _plain_regression),
    "restarts": (restarts, _free_classes),
    "gauss": (gauss, fits_least_squares),
    "replacement": (replacement, can_replace),
    "replacement-gauss": (replacement_gauss, lambda case: can_replace(case) and fits_least_squares(case)),
    "evolution": (evolution, lambda case: len(case.start) <= 20_000),
}
"""Every rival, and for which cases it is one. `recipe` is the reference, the best of all is the strongest script."""


def members(snapshot: Snapshot) -> list[str]:
    """The rivals that take part on this snapshot."""
    case = Case(snapshot, spec_of(dict(snapshot.note), 1.0, 0), Clock(steps=1))
    return [name for name, (_, fits) in RIVALS.items() if fits(case)]


def run_rival(name: str, data: bytes, seed: int, clock: Clock) -> Record:
    """Run one rival until the clock is up; its history is what the ledger kept."""
    snapshot = Snapshot.from_bytes(data)
    case = Case(snapshot, spec_of(dict(snapshot.note), 1.0, seed), clock)
    RIVALS[name][0](case, np.random.default_rng(seed))
    return {
        "history": [[seconds, value] for seconds, _, value in case.history],
        "start": case.start_value,
        "kept": case.broken(case.start) == 0,
        "value": case.best if math.isfinite(case.best) else None,
        "seconds": clock.elapsed,
        "steps": clock.taken,
    }


def run_job(data: bytes, seed: int, time_s: float, nodes: int | None = None, *, processor: bool = False) -> Record:
    """Run a job as a worker would (by the processor's clock, if so told); what it reports and returns is recounted."""
    note = dict(Snapshot.from_bytes(data).note)
    spec = spec_of(note, time_s, seed, nodes)
    points: list[list[float]] = []
    read = time.process_time if processor else time.perf_counter
    began = read()
    control = ProcessorTime() if processor else Control()
    control = control.heard_by(lambda found: points.append([found.t_s, found.objective]))
    snapshot = Snapshot.from_bytes(data)
    solution = solve(snapshot, spec, control)
    seconds = read() - began
    case = Case(snapshot, spec, Clock())
    value, kept = recount(case, solution.moved)
    return {
        "history": [*points, *([[seconds, value]] if kept else [])],
        "start": case.start_value,
        "kept": case.broken(case.start) == 0,
        "value": value if kept else None,
        "seconds": seconds,
        "late_s": seconds - (1.02 * time_s + 0.3),
        "first_s": first_improvement(case, points),
        "status": str(solution.result.status),
        "bound": solution.result.objective.bound,
        "claimed": solution.result.objective.final,
    }


def recount(case: Case, moved: Moved) -> tuple[float, bool]:
    """A job's value by the ledger, and whether its weights are in the box and keep the constraints."""
    vector = case.start.copy()
    for index, part in enumerate(case.parts):
        found = (
            (moved.weight, moved.bias)
            if index == 0
            else tuple(moved.tail.get(f"tail.{index - 1}.{name}") for name in ("weight", "bias"))
        )
        for place, tensor in zip((part.weight, part.bias), found, strict=True):
            if isinstance(place, slice) and tensor is not None:
                vector[place] = tensor.astype(np.float64).ravel()
    near = 1e-12 * np.maximum(1.0, np.abs(vector))  # the ends of the box are themselves rounded
    inside = bool(((vector >= case.low - near) & (vector <= case.high + near)).all())
    return case.value(vector), inside and case.broken(vector) == 0


def first_improvement(case: Case, points: list[list[float]]) -> float | None:
    """When the first incumbent came that is better than a start which keeps the constraints, or that keeps them."""
    feasible = case.broken(case.start) == 0
    return next((seconds for seconds, value in points if not feasible or value < case.start_value), None)


def main() -> None:
    """Run once and print the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["job", *RIVALS])
    parser.add_argument("file", type=Path)
    parser.add_argument("--time", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=float, default=math.inf)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--processor", action="store_true")
    arguments = parser.parse_args()
    data, cpu = bytes_of(arguments.file), time.process_time()
    if arguments.method == "job":
        record = run_job(data, arguments.seed, arguments.time, arguments.nodes, processor=arguments.processor)
    else:
        read = time.process_time if arguments.processor else time.perf_counter
        record = run_rival(arguments.method, data, arguments.seed, Clock(arguments.time, arguments.steps, read=read))
    record["cpu_s"] = time.process_time() - cpu
    record["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(record))


if __name__ == "__main__":
    main()
