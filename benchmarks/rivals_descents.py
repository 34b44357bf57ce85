"""Rivals that follow slopes of minibatches: projected Adam on ramps, alone and before exact line searches."""

from dataclasses import dataclass

import numpy as np

from benchmarks.rivals_case import Array, Case
from benchmarks.rivals_lines import Lines
from benchmarks.rivals_smooth import kick, local, ramp_slope, restarts


@dataclass(frozen=True)
class Descent:
    """One run of Adam: its step in radii, the width of the ramp it minimises, passes over the data, class weights."""

    step: float
    width: float
    epochs: int
    balance: float
    from_best: bool = False


def recipe(case: Case, rng: np.random.Generator) -> None:
    """What one would script in ten minutes: Adam on ramps, then biases under constraints; else L-BFGS-B restarts."""
    if case.snapshot.task != "classification" or not case.is_final:
        restarts(case, rng)
        return
    _after(case, rng, case.start)
    runs = 0
    widths = (1.0, 0.3, 3.0) if case.spec.objective != "zero_one" else (0.3, 0.1, 1.0)
    while case.clock.used < 1:
        balance = rng.random() if case.spec.constraints else 0.0
        plan = Descent((0.05, 0.2, 0.02)[runs % 3], case.spec.margin * widths[runs // 3 % 3], 12, balance)
        _after(case, rng, adam(case, rng, plan))
        runs += 1


def descents(case: Case, rng: np.random.Generator, until: float = 1.0) -> None:
    """Adam with steps, ramps, lengths and class weights at random; every second run goes on from the best so far."""
    runs = 0
    _after(case, rng, case.start)
    while case.clock.used < until:
        plan = Descent(
            step=10 ** rng.uniform(-2, -0.6),
            width=case.spec.margin * 10 ** rng.uniform(-1 if case.spec.objective == "zero_one" else -0.4, 0.5),
            epochs=int(rng.choice([4, 8, 16, 32])) if runs else 4,
            balance=rng.random() if case.spec.constraints else 0.0,
            from_best=bool(runs % 2) and np.isfinite(case.best),
        )
        _after(case, rng, adam(case, rng, plan))
        runs += 1


def polished(case: Case, rng: np.random.Generator) -> None:
    """A short run of Adam, L-BFGS-B on the ramp itself from the best so far, and the same from three kicks of it."""
    while case.clock.used < 1:
        descents(case, rng, until=case.clock.used + 1e-9)
        local(case, case.vector if np.isfinite(case.best) else case.start, 0.0, 100)
        for _ in range(3):
            local(case, kick(case, rng), 0.0, 100)


def lines(case: Case, rng: np.random.Generator) -> None:
    """A fifth of the time for descents, the rest for exact line searches from the best that they found."""
    descents(case, rng, until=0.2)
    Lines(case, rng, case.vector if np.isfinite(case.best) else case.start).search(until=1.0)


def adam(case: Case, rng: np.random.Generator, plan: Descent) -> Array:
    """Minibatch Adam on the ramp in float32, clipped into the box after every step; offers a few points on its way."""
    inputs, targets = case.snapshot.inputs, case.snapshot.targets
    low, high, radius = (array.astype(np.float32) for array in (case.low, case.high, case.radius))
    vector = (case.vector if plan.from_best else case.start).astype(np.float32)
    counts = np.bincount(targets, minlength=case.snapshot.outputs)
    cost = (case.weights * (len(targets) / len(counts) / np.maximum(counts, 1))[targets] ** plan.balance).astype(
        np.float32
    )
    mean, square = np.zeros_like(vector), np.zeros_like(vector)
    samples = len(targets)
    batch, taken = min(512, max(64, samples // 20)), 0
    for epoch in range(plan.epochs):
        step = plan.step * (1 - epoch / plan.epochs)
        order = rng.permutation(samples)
        for begin in range(0, samples, batch):
            if not case.clock.step():
                return vector.astype(np.float64)
            rows = order[begin : begin + batch]
            trace = case.forward(vector, inputs, rows)
            slope = ramp_slope(trace[-1], targets[rows], plan.width) * (cost[rows] / len(rows))[:, None]
            gradient = case.backward(vector, trace, slope)
            taken += 1
            mean += np.float32(0.1) * (gradient - mean)
            square += np.float32(0.001) * (gradient * gradient - square)
            scale = np.sqrt(square / np.float32(1 - 0.999**taken)) + np.float32(1e-12)
            vector -= np.float32(step / (1 - 0.9**taken)) * radius * mean / scale
            np.clip(vector, low, high, out=vector)
        if epoch % 3 == 2 or epoch == plan.epochs - 1:
            case.offer(vector.astype(np.float64))
    return vector.astype(np.float64)


def _after(case: Case, rng: np.random.Generator, vector: Array) -> None:
    """Under constraints a descent's end is only a beginning: its biases are searched."""
    if case.spec.constraints and case.is_final:
        Lines(case, rng, vector).biases()
