"""Writes the stall snapshots that `make bench-rivals` adds to the small set: constraints, whole networks, more samples.

usage: python benchmarks/rivals_snapshots.py [FOLDER]

Data are scikit-learn's digits and diabetes, and a polynomial; every file is below 100 kB. Where a spec has constraints,
the snapshot's own weights break them. The same command always writes the same bytes on one machine.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.write_snapshots import Array, digits, folder_to_fill
from shared.activations import Activation
from shared.snapshot import FloatArray, Snapshot, TailLayer


def many(samples: int, width: int) -> Snapshot:
    """More samples than branching can cope with; a tenth of the labels is wrong."""
    hidden, classes, weight, bias = digits(samples, width, wrong=0.1, seed=3)
    note = {"objective": "ramp", "radius": 0.1}
    return Snapshot("classification", _f32(hidden), classes, _f32(weight), _f32(bias), note=note)


def floors(samples: int, width: int) -> Snapshot:
    """Ten classes of which each is to be right in at least 60 %, of few that are rare."""
    hidden, classes, weight, bias = digits(samples + 200, width, wrong=0.05, seed=4)
    rng = np.random.default_rng(4)
    kept = np.flatnonzero((classes < 6) | (rng.random(len(classes)) < 0.3))[:samples]
    note = {
        "objective": "ramp",
        "radius": 0.15,
        "bias_radius": 1.0,
        "constraints": [{"type": "recall_floor", "value": 0.6}],
    }
    return Snapshot("classification", _f32(hidden[kept]), classes[kept], _f32(weight), _f32(bias), note=note)


def fair(samples: int, width: int) -> Snapshot:
    """Odd digits against even ones; those drawn with much ink are a group that does not fare as well."""
    hidden, classes, _, _ = digits(samples, width, wrong=0.05, seed=5)
    odd, rng = (classes % 2).astype(np.int64), np.random.default_rng(5)
    weight, bias = rng.normal(scale=0.1, size=(2, width)), np.zeros(2)
    for _ in range(200):  # logistic regression that stops short
        scores = hidden @ weight.T + bias
        error = 1 / (1 + np.exp(scores[:, 0] - scores[:, 1])) - odd
        weight += 0.2 * np.outer([1, -1], error @ hidden) / samples
        bias += 0.2 * np.array([1, -1]) * error.mean()
    ink = hidden.sum(axis=1)
    note = {
        "objective": "zero_one",
        "radius": 0.2,
        "bias_radius": 0.5,
        "constraints": [{"type": "group_rate_gap", "value": 0.02, "classes": [1]}],
    }
    group = (ink > np.median(ink)).astype(np.int64)
    return Snapshot("classification", _f32(hidden), odd, _f32(weight), _f32(bias), group=group, note=note)


def whole(inputs: Array, targets: Array, units: int, *, radius: float, seed: int) -> Snapshot:
    """A network of one hidden layer that gradient descent left far from its best mse; block and tail may move."""
    rng = np.random.default_rng(seed)
    width, outputs = inputs.shape[1], targets.shape[1]
    weight, outer = rng.uniform(-1, 1, (units, width)) / width**0.5, rng.uniform(-1, 1, (outputs, units)) / units**0.5
    bias, shift = np.zeros(units), np.zeros(outputs)
    for _ in range(100):
        before = inputs @ weight.T + bias
        hidden = np.maximum(0.0, before)
        error = (hidden @ outer.T + shift - targets) / len(targets)
        back = (error @ outer) * (before > 0)
        outer, shift = outer - 0.1 * error.T @ hidden, shift - 0.1 * error.sum(axis=0)
        weight, bias = weight - 0.1 * back.T @ inputs, bias - 0.1 * back.sum(axis=0)
    note: dict[str, Any] = {"objective": "mse", "radius": radius, "tail_radius": radius}
    tail = (TailLayer(_f32(outer), _f32(shift), Activation("identity")),)
    relu = Activation("relu")
    return Snapshot("regression", _f32(inputs), _f32(targets), _f32(weight), _f32(bias), relu, tail, note=note)


def polynomial(samples: int) -> tuple[Array, Array]:
    """Three inputs, and a cubic of them with a kink."""
    inputs = np.random.default_rng(6).uniform(-1, 1, (samples, 3))
    first, second, third = inputs.T
    return inputs, (first**3 - 2 * first * second + np.abs(third) - 0.5)[:, None]


def diabetes(samples: int) -> tuple[Array, Array]:
    """Scikit-learn's diabetes data, standardised."""
    data = load_diabetes()
    targets = (data.target[:samples] - data.target.mean()) / data.target.std()
    return 20 * data.data[:samples], targets[:, None]


def _f32(values: Array) -> FloatArray:
    return np.ascontiguousarray(values, dtype=np.float32)


def main() -> None:
    """Write them all."""
    folder = folder_to_fill(str(__doc__))
    snapshots = {
        "diabetes-whole4-300": whole(*diabetes(300), 4, radius=3.0, seed=7),
        "digits-fair-400": fair(400, 16),
        "digits-floors-300": floors(300, 24),
        "digits-ramp-1000": many(1000, 20),
        "polynomial-whole4-150": whole(*polynomial(150), 4, radius=4.0, seed=8),
    }
    for name, snapshot in snapshots.items():
        (folder / f"{name}.safetensors").write_bytes(snapshot.to_bytes())
        print(name, snapshot.shapes())


if __name__ == "__main__":
    main()
