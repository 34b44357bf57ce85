"""Jobs whose weights are to be few or on few values, against what an expert would script in a page.

    python benchmarks/few_values.py --json benchmarks/results/few-values.json

Digits with 15 % wrong labels, a classifier that has learnt nothing, and diabetes with all products of two columns. The
rival: Adam through the rounding (straight-through steps, Bengio et al. 2013) or with hard thresholds, several restarts,
then single moves and exchanges while they help. Job and rival have the same processor seconds, one after the other.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes, load_digits

from benchmarks.ablation import ProcessorTime
from shared.contracts import Constraint, JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.solve import solve

Array = np.ndarray
STEPS, THINNED = 200, 70
"""Steps of Adam in a restart, and from which one on weights are held at 0."""
RATES = (0.02, 0.05, 0.01)
DESCENTS = 0.7
"""Which part of the time goes to restarts."""
ASKED = {
    "digits": (
        {"type": "max_nonzero", "value": 100},
        {"type": "levels", "levels": [-1, -0.5, -0.25, 0, 0.25, 0.5, 1]},
        {"type": "grid", "value": 0.25},
    ),
    "diabetes": (
        {"type": "max_nonzero", "value": 10},
        {"type": "levels", "levels": [-0.2, -0.1, 0, 0.1, 0.2]},
        {"type": "grid", "value": 0.05},
    ),
}
OBJECTIVES = {"digits": ("log_loss", "hinge", "ramp", "zero_one"), "diabetes": ("mse", "mae")}


def digits(seed: int) -> Snapshot:
    """1,797 x 64, 10 classes; weights of new layers."""
    rng = np.random.default_rng(seed)
    bunch = load_digits()
    targets = bunch.target.copy()
    wrong = rng.random(len(targets)) < 0.15
    targets[wrong] = rng.integers(0, 10, int(wrong.sum()))
    return Snapshot(
        task="classification",
        inputs=(bunch.data / 16).astype(np.float32),
        targets=targets.astype(np.int64),
        weight=rng.normal(scale=0.1, size=(10, 64)).astype(np.float32),
        bias=np.zeros(10, np.float32),
    )


def diabetes(seed: int) -> Snapshot:
    """442 x 65, standardised columns and their products."""
    rng = np.random.default_rng(seed)
    bunch = load_diabetes()
    inputs = bunch.data / bunch.data.std(axis=0)
    products = [inputs[:, i] * inputs[:, j] for i in range(10) for j in range(i + 1)]
    targets = (bunch.target - bunch.target.mean()) / bunch.target.std()
    return Snapshot(
        task="regression",
        inputs=np.column_stack([inputs, *products]).astype(np.float32),
        targets=targets.astype(np.float32)[:, None],
        weight=rng.normal(scale=0.05, size=(1, 65)).astype(np.float32),
        bias=np.zeros(1, np.float32),
    )


class Script:
    """The rival of one job: `best` is the least value that it has found, with its weights [h, d] and biases [h]."""

    def __init__(self, snapshot: Snapshot, spec: JobSpec, rng: np.random.Generator) -> None:
        assert spec.radius is not None
        self.snapshot, self.spec, self.rng, self.radius = snapshot, spec, rng, spec.radius
        self.inputs, self.asked = snapshot.inputs.astype(np.float64), spec.constraints[0]
        self.low, self.high = snapshot.weight - self.radius, snapshot.weight + self.radius
        self.best: tuple[float, Array, Array] = (np.inf, snapshot.weight, np.zeros(len(snapshot.weight)))

    def restart(self, number: int, over: Callable[[], bool]) -> None:
        """Adam from the start, and ever farther from it."""
        weight = self.snapshot.weight + 0.05 * number * self.rng.normal(size=self.low.shape)
        bias, mean, square = np.zeros(len(self.low)), np.zeros(1), np.zeros(1)
        for step in range(1, STEPS + 1):
            if over():
                break
            sparse = self.asked.type == "max_nonzero"
            taken = weight if sparse and step <= THINNED else nearest(self.asked, np.clip(weight, self.low, self.high))
            slope = self._slope(self.inputs @ taken.T + bias, max(2 * (1 - step / STEPS), 0.02))
            gradient = np.column_stack([slope.T @ self.inputs, slope.sum(axis=0)])
            mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
            rate = RATES[number % len(RATES)] * (1 - step / STEPS) + 1e-4
            move = rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-12)
            held = taken if sparse and step > THINNED else weight
            weight = np.clip(held - move[:, :-1], self.low, self.high)
            bias = np.clip(bias - move[:, -1], -self.radius, self.radius)
            if step % 10 == 0:
                self._offer(nearest(self.asked, weight), bias)

    def move(self) -> None:
        """One weight takes another value; where only so many may differ from 0, another one becomes 0 for it."""
        _, weight, bias = self.best
        tried, place = weight.copy(), tuple(self.rng.integers(self.low.shape))
        if self.asked.type == "max_nonzero":
            if tried[place] == 0:
                tried[tuple(self.rng.choice(np.argwhere(tried)))] = 0.0
            tried[place] += self.rng.normal() * 10 ** self.rng.uniform(-2.5, 0)
        elif self.asked.type == "levels":
            tried[place] = self.rng.choice(self.asked.levels)
        else:
            tried[place] += self.asked.value * self.rng.choice([-2, -1, 1, 2])
        self._offer(tried, bias)

    def _offer(self, weight: Array, bias: Array) -> None:
        weight, bias = weight.astype(np.float32), bias.astype(np.float32)
        if (np.abs(weight.astype(np.float64) - self.snapshot.weight) <= self.radius).all():
            value = self.spec.value(self.snapshot, weight, bias)
            if value < self.best[0]:
                self.best = value, weight, bias

    def _slope(self, scores: Array, width: float) -> Array:
        """The slope of a smooth stand-in by the scores [n, h]."""
        targets, rows, found = self.snapshot.targets, np.arange(len(scores)), np.zeros_like(scores)
        if self.snapshot.task == "regression":
            error = scores - targets
            return np.asarray((np.sign(error) if self.spec.objective == "mae" else 2 * error) / error.size)
        if self.spec.objective == "log_loss":
            found = np.exp(scores - scores.max(axis=1, keepdims=True))
            found /= found.sum(axis=1, keepdims=True)
            found[rows, targets] -= 1
            return found / len(scores)
        rest = scores.copy()
        rest[rows, targets] = -np.inf
        rival = rest.argmax(axis=1)
        margin = scores[rows, targets] - rest[rows, rival]
        pull = (margin < 1) & ((margin > -width) | (self.spec.objective == "hinge"))
        if self.spec.objective == "zero_one":
            wrong = 1 / (1 + np.exp(np.clip(margin / width, -30, 30)))
            pull = wrong * (1 - wrong) / width
        found[rows, targets] -= pull
        found[rows, rival] += pull
        return found / len(scores)


def nearest(asked: Constraint, weight: Array) -> Array:
    """The nearest weights that keep a constraint."""
    if asked.type == "levels":
        levels = np.array(asked.levels)
        return levels[np.abs(weight[..., None] - levels).argmin(axis=-1)]
    if asked.type == "grid":
        return np.asarray(np.round(weight / asked.value) * asked.value)
    least = np.sort(np.abs(weight).ravel())[-int(asked.value)]
    return np.where(np.abs(weight) >= least, weight, 0.0)


def scripted(snapshot: Snapshot, spec: JobSpec, seconds: float, seed: int) -> float:
    """What the rival finds in so many processor seconds."""
    rival, began, number = Script(snapshot, spec, np.random.default_rng(seed)), time.process_time(), 0

    def over(part: float) -> bool:
        return time.process_time() - began > part * seconds

    while not over(DESCENTS):
        rival.restart(number, lambda: over(DESCENTS))
        number += 1
    while not over(1.0):
        rival.move()
    return rival.best[0]


def main() -> None:
    """Run all, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="processor seconds of each (3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    rows = []
    for data, make in (("digits", digits), ("diabetes", diabetes)):
        for objective in OBJECTIVES[data]:
            for asked in ASKED[data]:
                found = []
                for seed in arguments.seeds:
                    snapshot, limits = make(seed), {"time_s": arguments.seconds}
                    fields = {"objective": objective, "radius": 1.0, "constraints": [asked], "limits": limits}
                    spec = JobSpec.model_validate(fields)
                    job = solve(snapshot, spec, ProcessorTime()).result
                    value = job.objective.final if job.feasible else None
                    found.append({"seed": seed, "job": value, "script": None})
                    found[-1]["script"] = scripted(snapshot, spec, arguments.seconds, seed)
                ratios = [one["job"] / one["script"] for one in found if one["job"] and one["script"]]
                row = {"data": data, "objective": objective, "asked": asked["type"], "runs": found}
                rows.append({**row, "ratio": max(ratios) if len(ratios) == len(found) else None})
                values = ", ".join(f"{one['job']:.5g} ({one['script']:.5g})" for one in found)
                print(
                    f"{data}, {objective}, {asked['type']}: {values}; worst ratio {rows[-1]['ratio']:.3f}", flush=True
                )
    if arguments.json:
        about = {"command": " ".join(sys.argv), "cores": os.cpu_count(), "seconds": arguments.seconds}
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
