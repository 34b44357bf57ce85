"""Random tiny blocks with activations and tails against an enumeration of activation patterns: none may differ.

    python benchmarks/exactness_blocks.py --instances 500 --seed 1 [--json FILE]

Every instance is drawn from its own number (seed, number), so that one that differs is found again with
`--first NUMBER --instances 1`. `mse` has no linear model: it is held to the optimum, too, but no proof is asked of it.
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from block_oracle import optimum
from oracle import ROOM

from shared.activations import Activation
from shared.contracts import JobSpec, SolveStatus
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.solve import solve

OBJECTIVES = ("zero_one", "ramp", "hinge", "mae", "mse", "max_error", "outliers")
ACTIVATIONS = ("identity", "relu", "leaky_relu:0.2", "leaky_relu:0.01", "hardtanh")
CLOSE = 2e-5
"""Values nearer than this are the same: float32 weights and solver tolerances leave as much."""


def instance(seed, number):
    """A tiny block with up to two tail layers, and a job for it."""
    rng = np.random.default_rng([seed, number])
    objective = OBJECTIVES[rng.integers(len(OBJECTIVES))]
    classes = objective in ("zero_one", "ramp", "hinge")
    n, d, layers = int(rng.integers(2, 4)), int(rng.integers(1, 3)), int(rng.choice([0, 1, 1, 2]))
    widths = [int(rng.integers(1, 3)) for _ in range(layers + 1)]
    if classes:
        widths[-1] = int(rng.integers(2, 4)) if layers < 2 else 2
    tail = tuple(
        TailLayer(
            rng.normal(size=(out, width)).astype(np.float32),
            rng.normal(size=out).astype(np.float32) if rng.random() < 0.7 else None,
            Activation.parse(str(rng.choice(ACTIVATIONS))),
        )
        for width, out in pairwise(widths)
    )
    snapshot = Snapshot(
        task="classification" if classes else "regression",
        inputs=rng.normal(size=(n, d)).astype(np.float32),
        targets=rng.integers(0, widths[-1], n) if classes else rng.normal(size=(n, widths[-1])).astype(np.float32),
        weight=rng.normal(size=(widths[0], d)).astype(np.float32),
        bias=rng.normal(size=widths[0]).astype(np.float32) if rng.random() < 0.7 else None,
        offset=rng.normal(scale=0.5, size=(n, widths[0])).astype(np.float32) if rng.random() < 0.3 else None,
        sample_weight=(rng.integers(0, 4, n) / 2 + 0.5 * (np.arange(n) == 0)).astype(np.float32)
        if rng.random() < 0.3
        else None,
        activation=Activation.parse(str(rng.choice(ACTIVATIONS if tail else ACTIVATIONS[1:]))),
        tail=tail,
    )
    spec = JobSpec(
        objective=objective,
        margin=float(rng.uniform(0.3, 1.5)),
        tolerance=0.4 if objective == "outliers" else None,
        radius=float(rng.uniform(0.2, 0.8)),
        limits={"time_s": 60},
    )
    return snapshot, spec


@dataclass(frozen=True)
class Verdict:
    """What the solver gets wrong, in words (None: it agrees with enumeration); whether it calls itself done."""

    wrong: str | None
    proven: bool


def compare(snapshot, spec):
    """Solve a block both ways."""
    true, solution = optimum(snapshot, spec), solve(snapshot, spec)
    return Verdict(_difference(snapshot, spec, true, solution), solution.result.status is SolveStatus.OPTIMAL)


def _difference(snapshot, spec, true, solution):
    report = solution.result.objective
    most = true
    if report.final > true + CLOSE * (1 + true) and spec.objective in ("zero_one", "outliers"):
        most = optimum(snapshot, spec, room=ROOM)  # only a point that float32 weights miss may be better
    if not true - CLOSE * (1 + true) <= report.final <= most + CLOSE * (1 + most):
        return f"the optimum is {true}, not {report.final} ({solution.result.status}, {solution.result.notes})"
    box = [(solution.weight, snapshot.weight)]
    box += [] if snapshot.bias is None else [(solution.bias, snapshot.bias)]
    furthest = max(float(np.abs(new.astype(float) - old).max()) for new, old in box)
    recomputed = spec.goal.value(snapshot, solution.weight, solution.bias)
    faults = {
        f"the optimum is {true}, below the bound {report.bound}": report.bound > true + 1e-6 * (1 + true),
        "the value is not that of the weights": report.final != recomputed,
        "the weights leave the box": furthest > spec.radius,
    }
    return next((fault for fault, found in faults.items() if found), None)


def main():
    """Compare, print what differs, and count by objective, activation and depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first instance")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began, counts, differ, unproven = time.monotonic(), Counter(), 0, 0
    for number in range(options.first, options.first + options.instances):
        snapshot, spec = instance(options.seed, number)
        verdict = compare(snapshot, spec)
        layers = {str(snapshot.activation), *(str(layer.activation) for layer in snapshot.tail)}
        counts.update({spec.objective, f"{len(snapshot.tail)} tail layers", *layers})
        differ += verdict.wrong is not None
        unproven += not (verdict.proven or spec.objective == "mse")
        if verdict.wrong:
            print(f"instance {number}: {spec.objective}: {verdict.wrong}", flush=True)
        elif not (verdict.proven or spec.objective == "mse"):
            print(f"instance {number}: right but not proven ({spec.objective})", flush=True)
        done = number + 1 - options.first
        if done % 50 == 0:
            print(f"{done} instances, {differ} different, {time.monotonic() - began:.0f} s", flush=True)
    report = {
        "instances": options.instances,
        "seed": options.seed,
        "different": differ,
        "right_but_not_proven": unproven,
        "seconds": round(time.monotonic() - began),
        "counts": dict(sorted(counts.items())),
    }
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
