"""Writes the small set of stall snapshots that `make bench-solver` measures by default, from data everybody has.

usage: python benchmarks/write_snapshots.py [FOLDER]

A small network is trained on scikit-learn's digits or diabetes data with plain numpy until it stalls; its last layer's
inputs, targets and weights are the snapshot. The same command always writes the same bytes on one machine.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes, load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shared.snapshot import Snapshot

ROOT = Path(__file__).resolve().parent.parent
Array = NDArray[np.float64]
DEFAULT_FOLDER = ROOT / "benchmarks" / "snapshots"


def digits(samples: int, width: int, *, wrong: float, seed: int) -> tuple[Array, NDArray[np.int64], Array, Array]:
    """Features, classes, weight and bias of a stalled digit classifier; a share of its labels is wrong."""
    rng = np.random.default_rng(seed)
    data = load_digits()
    chosen = rng.permutation(len(data.target))[:samples]
    inputs, classes = data.data[chosen] / 16.0, data.target[chosen].astype(np.int64)
    spoilt = rng.random(samples) < wrong
    classes[spoilt] = rng.integers(0, 10, int(spoilt.sum()))
    hidden = np.maximum(0.0, inputs @ rng.normal(scale=0.25, size=(64, width)) + 0.1)
    return hidden, classes, *_descend(hidden, np.eye(10)[classes], rng)


def _descend(hidden: Array, wanted: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Softmax regression by gradient descent that stops long before it is done."""
    weight, bias = rng.normal(scale=0.1, size=(wanted.shape[1], hidden.shape[1])), np.zeros(wanted.shape[1])
    for _ in range(150):
        scores = hidden @ weight.T + bias
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = likely / likely.sum(axis=1, keepdims=True) - wanted
        weight -= 0.5 * error.T @ hidden / len(hidden)
        bias -= 0.5 * error.mean(axis=0)
    return weight, bias


def diabetes(samples: int) -> Snapshot:
    """A linear model of diabetes progression, short of its least absolute error."""
    data = load_diabetes()
    inputs = (20 * data.data[:samples]).astype(np.float32)
    targets = ((data.target[:samples] - data.target.mean()) / data.target.std()).astype(np.float32)
    weight = np.full((1, inputs.shape[1]), 0.05, dtype=np.float32)
    note = {"objective": "mae", "radius": 0.2}
    return Snapshot("regression", inputs, targets, weight, np.zeros(1, dtype=np.float32), note=note)


def _classifier(objective: str, radius: float, samples: int, width: int, *, wrong: float, seed: int) -> Snapshot:
    hidden, classes, weight, bias = digits(samples, width, wrong=wrong, seed=seed)
    note = {"objective": objective, "radius": radius}
    floats = [array.astype(np.float32) for array in (hidden, weight, bias)]
    return Snapshot("classification", floats[0], classes, floats[1], floats[2], note=note)


def folder_to_fill(doc: str) -> Path:
    """The folder that the command line names, made if it is not there."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> None:
    """Write them all."""
    folder = folder_to_fill(str(__doc__))
    snapshots = {
        "digits-count-200": _classifier("zero_one", 0.05, 200, 24, wrong=0.05, seed=0),
        "digits-count-400": _classifier("zero_one", 0.05, 400, 16, wrong=0.0, seed=1),
        "digits-ramp-300": _classifier("ramp", 0.1, 300, 24, wrong=0.1, seed=2),
        "diabetes-mae-300": diabetes(300),
    }
    for name, snapshot in snapshots.items():
        (folder / f"{name}.safetensors").write_bytes(snapshot.to_bytes())
        print(name, snapshot.shapes())


if __name__ == "__main__":
    main()
