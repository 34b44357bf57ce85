"""The objectives against plain loops over samples: the definition that everything else is measured by."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.activations import Activation
from shared.errors import SpecError
from shared.objectives import EPSILON, Objective, outputs
from shared.snapshot import Snapshot, TailLayer
from tests.conftest import small_snapshot

ACTIVATIONS = ("identity", "relu", "leaky_relu:0.1", "hardtanh")


def activate(name: str, value: float) -> float:
    match name:
        case "relu":
            return max(0.0, value)
        case "leaky_relu:0.1":
            return value if value > 0 else 0.1 * value
        case "hardtanh":
            return min(1.0, max(-1.0, value))
    return value


def plain_outputs(snapshot: Snapshot) -> list[list[float]]:
    """The forward pass as loops over plain floats."""
    found = []
    for n in range(snapshot.samples):
        values = []
        for i, row in enumerate(snapshot.weight):
            total = sum(float(w) * float(g) for w, g in zip(row, snapshot.inputs[n], strict=True))
            total += 0.0 if snapshot.bias is None else float(snapshot.bias[i])
            total += 0.0 if snapshot.offset is None else float(snapshot.offset[n, i])
            values.append(activate(str(snapshot.activation), total))
        for layer in snapshot.tail:
            values = [
                activate(
                    str(layer.activation),
                    sum(float(w) * v for w, v in zip(row, values, strict=True))
                    + (0.0 if layer.bias is None else float(layer.bias[k])),
                )
                for k, row in enumerate(layer.weight)
            ]
        found.append(values)
    return found


def plain_value(objective: Objective, snapshot: Snapshot) -> float:
    """An objective as its formula reads, sample by sample."""
    w = [1.0] * snapshot.samples if snapshot.sample_weight is None else [float(v) for v in snapshot.sample_weight]
    costs = []
    for n, scores in enumerate(plain_outputs(snapshot)):
        if snapshot.task == "classification":
            y = int(snapshot.targets[n])
            t = min(scores[y] - s for k, s in enumerate(scores) if k != y)
            loss = max(0.0, 1 - t / objective.margin)
            costs.append({"zero_one": float(t < EPSILON), "ramp": min(1.0, loss), "hinge": loss}[objective.name])
            continue
        errors = [abs(s - float(y)) for s, y in zip(scores, np.atleast_1d(snapshot.targets[n]), strict=True)]
        costs.append(
            {
                "mae": sum(errors) / len(errors) / sum(w),
                "mse": sum(e * e for e in errors) / len(errors) / sum(w),
                "max_error": max(errors),
                "outliers": float(any(e > (objective.tolerance or 0) for e in errors)),
            }[objective.name]
        )
    if objective.name == "max_error":
        return max(c for c, v in zip(costs, w, strict=True) if v > 0)
    return sum(v * c for v, c in zip(w, costs, strict=True))


def random_snapshot(seed: int, *, regression: bool) -> Snapshot:
    rng = np.random.default_rng(seed)
    n, d, h = rng.integers(1, 9), rng.integers(1, 5), rng.integers(2, 4)
    layers = []
    width = h
    for _ in range(rng.integers(0, 3)):
        out = int(rng.integers(2, 4))
        bias = rng.normal(size=out).astype(np.float32) if rng.random() < 0.5 else None
        layers.append(
            TailLayer(rng.normal(size=(out, width)).astype(np.float32), bias, Activation.parse(rng.choice(ACTIVATIONS)))
        )
        width = out
    weights = rng.random(n).astype(np.float32)
    weights[rng.random(n) < 0.2] = 0.0
    weights[0] = 1.0
    return Snapshot(
        task="regression" if regression else "classification",
        inputs=rng.normal(size=(n, d)).astype(np.float32),
        targets=rng.normal(size=(n, width)).astype(np.float32) if regression else rng.integers(0, width, n),
        weight=rng.normal(size=(h, d)).astype(np.float32),
        bias=rng.normal(size=h).astype(np.float32) if rng.random() < 0.5 else None,
        offset=rng.normal(size=(n, h)).astype(np.float32) if rng.random() < 0.5 else None,
        sample_weight=weights if rng.random() < 0.5 else None,
        activation=Activation.parse(rng.choice(ACTIVATIONS)),
        tail=tuple(layers),
    )


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3))
@settings(max_examples=150, deadline=None)
def test_every_objective_equals_its_formula(seed: int, margin: float) -> None:
    """All seven objectives, through every activation and tail, equal the plain formula."""
    for names, regression in ((("zero_one", "ramp", "hinge"), False), (("mae", "mse", "max_error", "outliers"), True)):
        snapshot = random_snapshot(seed, regression=regression)
        for name in names:
            objective = Objective(name, margin=margin, tolerance=0.7)
            value = objective.value(snapshot, snapshot.weight, snapshot.bias)
            assert value == pytest.approx(plain_value(objective, snapshot), rel=1e-9, abs=1e-12)


def test_a_tie_is_an_error() -> None:
    """A class that does not win by more than epsilon has not won."""
    flat = replace(small_snapshot(), weight=np.zeros((3, 3), np.float32))
    assert Objective("zero_one").value(flat, flat.weight, flat.bias) == flat.samples


def test_objectives_are_refused_for_the_wrong_task() -> None:
    """An objective that does not fit the task names the ones that do."""
    with pytest.raises(SpecError, match="zero_one, ramp, hinge"):
        Objective("mae").check(small_snapshot())


def test_outliers_need_a_tolerance() -> None:
    """`outliers` without a tolerance is refused by name."""
    snapshot = random_snapshot(1, regression=True)
    with pytest.raises(SpecError) as caught:
        Objective("outliers").check(snapshot)
    assert caught.value.field == "tolerance"


def test_outputs_use_float64() -> None:
    """Sums that float32 would lose are kept."""
    snapshot = Snapshot(
        task="regression",
        inputs=np.array([[1e8, 1.0, -1e8]], np.float32),
        targets=np.ones((1, 1), np.float32),
        weight=np.ones((1, 3), np.float32),
    )
    assert outputs(snapshot, snapshot.weight, None)[0, 0] == 1.0
