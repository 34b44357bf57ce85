"""A rival in a few lines: projected Adam on all samples, every count a sigmoid that grows sharp."""

import numpy as np
from scipy.special import expit

from benchmarks.rivals_case import Array, Case

STEPS, RATE = 300, 0.05
"""Of one descent; Adam's rate in half-widths of the box, falling to 0 as a cosine."""
WIDEST, NARROWEST = 1.0, 0.02
"""The sigmoid's width at first and in the end, in standard deviations of the scores."""
KICK = 0.2


def annealed(case: Case, rng: np.random.Generator) -> None:
    """From the snapshot, then from noise around the best."""
    half, start = case.radius, case.start
    spread = float(np.std(case.forward(start, case.snapshot.inputs.astype(np.float32))[-1])) or 1.0
    while case.clock.used < 1:
        case.offer(descend(case, start, half, spread))
        start = np.clip(case.vector + KICK * half * rng.normal(size=half.shape), case.low, case.high)


def descend(case: Case, start: Array, half: Array, spread: float) -> Array:
    """Where one descent ends."""
    inputs, vector = case.snapshot.inputs.astype(np.float32), start.copy()
    mean, square = np.zeros_like(vector), np.zeros_like(vector)
    for step in range(STEPS):
        if not case.clock.step():
            break
        width = spread * WIDEST * (NARROWEST / WIDEST) ** (step / STEPS)
        trace = case.forward(vector.astype(np.float32), inputs)
        slope = slope_of(case, trace[-1], width)
        gradient = half * case.backward(vector.astype(np.float32), trace, slope.astype(np.float32))
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        there = mean / (1 - 0.9 ** (step + 1)), np.sqrt(square / (1 - 0.99 ** (step + 1)))
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        vector = np.clip(vector - rate * half * there[0] / (there[1] + 1e-12), case.low, case.high)
    return vector


def slope_of(case: Case, scores: Array, width: float) -> Array:
    """By the scores [n, h]: of the mean ramp, or of the share of wrong samples."""
    rows, targets = np.arange(len(scores)), case.snapshot.targets
    rest = scores.copy()
    rest[rows, targets] = -np.inf
    rival = rest.argmax(axis=1)
    margin = scores[rows, targets] - rest[rows, rival]
    if case.spec.objective == "ramp":
        far = case.spec.margin
        pull = (expit((far - margin) / width) - expit(-margin / width)) / far
    else:
        wrong = expit(-margin / width)
        pull = wrong * (1 - wrong) / width
    pull = pull * case.weights / case.weights.sum()
    slope = np.zeros_like(scores)
    slope[rows, targets] -= pull
    slope[rows, rival] += pull
    return slope
