"""Random tiny jobs over all objectives and constraints against exhaustive search: none may differ.

    python benchmarks/exactness.py --instances 10000 --seed 1

Every instance is drawn from its own number (seed, number), so that one that differs is found again with
`--first NUMBER --instances 1`.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from drawn_jobs import ON_SAMPLES, ON_SIGNS, ON_WEIGHTS, constraint, quarters, wide_instance, with_structure
from oracle import ROOM, kept, optimum

from shared.contracts import JobSpec, SolveStatus
from shared.snapshot import Snapshot
from solver_service.milp.solve import solve

OBJECTIVES = ("zero_one", "ramp", "hinge", "mae", "mse", "max_error", "outliers")
CLOSE = 2e-5
"""Values nearer than this are the same: float32 weights and solver tolerances leave as much."""


def instance(seed, number):
    """A tiny snapshot and a job with up to three constraints that fits it.

    Some have none of them, but inputs that the solver may drop or merge.
    """
    rng = np.random.default_rng([seed, number])
    objective = OBJECTIVES[rng.integers(len(OBJECTIVES))]
    classes = objective in ("zero_one", "ramp", "hinge")
    on_weights = tuple(kind for kind in ON_WEIGHTS if kind != "levels")
    allowed = (*ON_SAMPLES, *on_weights) if classes else ON_SIGNS if objective == "mse" else on_weights
    many = min(len(allowed), int(rng.choice(4, p=[0.15, 0.5, 0.25, 0.1])))
    types = [str(kind) for kind in rng.choice(allowed, many, replace=False)]
    costly = objective in ("ramp", "outliers") and many > 1
    n, d = int(rng.integers(3, 5 if costly else 7)), int(rng.integers(1, 3))
    if "group_rate_gap" in types:
        n = min(n, 4)
    h = int(rng.integers(2, 4)) if classes else int(rng.integers(1, 3))
    tensors = {
        "inputs": rng.normal(size=(n, d)).astype(np.float32),
        "weight": rng.normal(scale=0.5, size=(h, d)).astype(np.float32),
        "targets": rng.integers(0, h, n) if classes else rng.normal(size=(n, h)).astype(np.float32),
    }
    if rng.random() < 0.7:
        tensors["bias"] = rng.normal(scale=0.5, size=h).astype(np.float32)
    if rng.random() < 0.3:
        tensors["offset"] = rng.normal(scale=0.5, size=(n, h)).astype(np.float32)
    if rng.random() < 0.3:
        tensors["sample_weight"] = (rng.integers(1, 5, n) / 2).astype(np.float32)
    if "group_rate_gap" in types:
        tensors["group"] = rng.permutation(np.arange(n) % 2) + 3
    radius = {"radius": float(rng.uniform(0.2, 1.0))}
    if rng.random() < 0.2:
        tensors["radius"] = rng.uniform(0, 0.8, (h, d)).astype(np.float32)
        radius = {}
    if plain := rng.random() < 0.25:
        tensors = {name: quarters(values) for name, values in tensors.items()}
        radius = {name: float(quarters(value)) or 0.25 for name, value in radius.items()}
    structure = np.random.default_rng([seed, number, 1])
    # Not with round numbers: their optimum may be a single point, and which weights attain it is then a matter of luck.
    if not plain and structure.random() < 0.3:
        types, tensors = [], with_structure(structure, tensors)
    snapshot = Snapshot(task="classification" if classes else "regression", **tensors)
    spec = JobSpec(
        objective=objective,
        margin=float(rng.uniform(0.3, 1.5)),
        tolerance=0.5 if objective == "outliers" else None,
        constraints=[constraint(rng, kind, snapshot, plain=plain, **radius) for kind in types],
        limits={"time_s": 60},
        **radius,
    )
    return snapshot, spec


@dataclass(frozen=True)
class Verdict:
    """What the solver gets wrong, in words (None: it agrees with exhaustive search); whether it calls itself done."""

    wrong: str | None
    proven: bool
    infeasible: bool = False


def compare(snapshot, spec):
    """Solve a job both ways."""
    true, solution = optimum(snapshot, spec), solve(snapshot, spec)
    done = solution.result.status in (SolveStatus.OPTIMAL, SolveStatus.INFEASIBLE)
    return Verdict(_difference(snapshot, spec, true, solution), done, infeasible=true is None)


def _difference(snapshot, spec, true, solution):
    result, report = solution.result, solution.result.objective
    if true is None:
        proven = result.status is SolveStatus.INFEASIBLE and not result.improved
        return None if proven else f"infeasible, but the solver says {result.status} at {report.final}"
    if by_search(spec):
        return _search_fault(snapshot, spec, true, solution)
    roomy = true
    if result.status is SolveStatus.INFEASIBLE or report.final > true + CLOSE * (1 + true):
        roomy = optimum(snapshot, spec, room=ROOM)  # only a point that float32 weights miss may be better
    if result.status is SolveStatus.INFEASIBLE:
        return None if roomy is None else f"the optimum is {true}, but the solver says infeasible: {result.notes}"
    most = float("inf") if roomy is None else roomy + CLOSE * (1 + roomy)
    if not true - CLOSE * (1 + true) <= report.final <= most:
        return f"the optimum is {true}, not {report.final} ({result.status}, {result.notes})"
    kept_all = kept(snapshot, spec, solution.weight, solution.bias)
    faults = {
        f"the optimum is {true}, below the bound {report.bound}": report.bound > true + 1e-6 * (1 + true),
        "the value is not that of the weights": report.final != spec.value(snapshot, solution.weight, solution.bias),
        "the weights break a constraint or the box": not kept_all,
    }
    return next((fault for fault, found in faults.items() if found), None)


def by_search(spec):
    """Whether nothing is proven of such a job: trimmed means."""
    return spec.objective in ("trimmed_mse", "trimmed_mae")


def _search_fault(snapshot, spec, true, solution):
    """What a search may not do: claim too much, break a constraint, or stay far above the optimum."""
    report, status = solution.result.objective, solution.result.status
    if status is SolveStatus.INFEASIBLE:
        return None if optimum(snapshot, spec, room=ROOM) is None else f"the optimum is {true}, not infeasible"
    faults = {
        f"the optimum is {true}, below the bound {report.bound}": report.bound > true + 1e-6 * (1 + true),
        f"{report.final} is below the optimum, {true}": report.final < true - CLOSE * (1 + true)
        and kept(snapshot, spec, solution.weight, solution.bias),
        "the value is not that of the weights": report.final != spec.value(snapshot, solution.weight, solution.bias),
    }
    return next((fault for fault, found in faults.items() if found), None)


def main():
    """Compare, print what differs, and count by objective and by constraint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--wide", action="store_true", help="all tasks, objectives and constraints; without it, those of the first ones"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first instance")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after this long, and say how far it came"
    )
    options = parser.parse_args()
    began, counts, differ, unproven, done = time.monotonic(), Counter(), 0, 0, 0
    for number in range(options.first, options.first + options.instances):
        if time.monotonic() - began > options.seconds:
            break
        snapshot, spec = (wide_instance if options.wide else instance)(options.seed, number)
        verdict = compare(snapshot, spec)
        wrong = verdict.wrong
        unproven += not (verdict.proven or by_search(spec))
        done += 1
        counts.update({"(infeasible)"} if verdict.infeasible else ())
        counts.update({spec.objective, *(asked.type for asked in spec.constraints)})
        counts.update({f"task {snapshot.task}"} if options.wide else ())
        if not (verdict.proven or wrong or by_search(spec)):
            print(
                f"instance {number}: right but not proven ({spec.objective}, {[c.type for c in spec.constraints]})",
                flush=True,
            )
        if wrong:
            differ += 1
            asked = [asked.model_dump(exclude_none=True) for asked in spec.constraints]
            print(f"instance {number}: {spec.objective} {asked}: {wrong}", flush=True)
        if done % 500 == 0:
            print(f"{done} instances, {differ} different, {time.monotonic() - began:.0f} s", flush=True)
    elapsed = time.monotonic() - began
    print(
        f"{done} instances, seed {options.seed}: {differ} different, {unproven} right but not proven, {elapsed:.0f} s"
    )
    for name, count in sorted(counts.items()):
        print(f"  {name:16} {count}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
