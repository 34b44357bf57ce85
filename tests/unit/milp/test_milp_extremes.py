"""Inputs at the edge of sense: nothing crashes, and every promise holds."""

import numpy as np
import pytest
from milp_cases import assert_honest, job

from shared.snapshot import Snapshot
from solver_service.milp.solve import solve

# inputs' scale, weights' scale, radius
SCALES = {
    "plain": (1, 1, 0.1),
    "tiny radius": (1, 1, 1e-9),
    "huge radius": (1, 1, 1e5),
    "zero inputs": (0, 1, 0.1),
    "tiny inputs": (1e-6, 1, 0.1),
    "huge inputs": (1e6, 1, 0.1),
    "huge weights": (1, 1e6, 1.0),
    "huge everything": (1e12, 1e12, 1e10),
    "near overflow": (1, 1e37, 1e30),
}
OBJECTIVES = ("zero_one", "ramp", "hinge", "mae", "mse", "max_error", "outliers")


def _snapshot(objective, *, n=12, d=4, h=3, inputs=1.0, weights=1.0, same=False):
    rng = np.random.default_rng(0)
    classification = objective in ("zero_one", "ramp", "hinge")
    classes = np.zeros(n, np.int64) if same else rng.integers(0, h, n)
    return Snapshot(
        task="classification" if classification else "regression",
        inputs=(inputs * rng.normal(size=(n, d))).astype(np.float32),
        targets=classes if classification else rng.normal(size=(n, h)).astype(np.float32),
        weight=(weights * rng.normal(size=(h, d))).astype(np.float32),
        bias=(weights * rng.normal(size=h)).astype(np.float32),
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_scale_breaks_it(objective, scale):
    """From zero to near overflow, the result is in the box, recomputed, and no worse than the start."""
    inputs, weights, radius = SCALES[scale]
    snapshot = _snapshot(objective, inputs=inputs, weights=weights)
    spec = job(objective, radius=radius, time_s=2)
    assert_honest(snapshot, spec, solve(snapshot, spec))


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_margins_that_can_be_met_are_met_exactly(scale):
    """Rounding to float32 leaves nothing of a hinge that can be 0, in any units."""
    for seed in range(25):
        rng = np.random.default_rng([seed, 3])
        inputs, weight = rng.normal(size=(4, 6)) * scale, rng.uniform(-1, 1, (3, 6))
        targets = rng.integers(0, 3, 4)
        snapshot = Snapshot(
            task="classification",
            inputs=inputs.astype(np.float32),
            targets=targets,
            weight=weight.astype(np.float32),
            bias=rng.normal(size=3).astype(np.float32),
        )
        spec = job("hinge", margin=0.7 * scale, radius=3.0, bias_radius=scale)
        assert solve(snapshot, spec).result.objective.final == 0.0


@pytest.mark.parametrize("objective", ["mse", "trimmed_mse"])
def test_a_fit_that_is_exact_before_anything_is_branched_on(objective):
    """Nothing is left to do on single weights that may take a few values each."""
    for seed in range(10):
        rng = np.random.default_rng([seed, 8])
        snapshot = Snapshot(
            task="regression",
            inputs=rng.normal(size=(1, 2)).astype(np.float32),
            targets=rng.normal(size=(1, 2)).astype(np.float32),
            weight=rng.normal(size=(2, 2)).astype(np.float32),
            bias=rng.normal(size=2).astype(np.float32),
        )
        constraints = [{"type": "nonnegative"}, {"type": "levels", "levels": [0.0, 1.5, 3.0]}]
        spec = job(objective, radius=5.0, bias_radius=20.0, constraints=constraints)
        assert solve(snapshot, spec).result.objective.final <= 1e-12


@pytest.mark.parametrize("shape", [{"n": 1}, {"same": True}, {"d": 1, "h": 2}, {"n": 3, "d": 200}], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_shape_breaks_it(objective, shape):
    """One sample, one class, one input, more inputs than samples."""
    snapshot = _snapshot(objective, **shape)
    spec = job(objective, time_s=2)
    assert_honest(snapshot, spec, solve(snapshot, spec))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_hardly_any_time_is_enough_for_an_honest_answer(objective):
    """With a limit that is over at once the snapshot comes back, or something better."""
    snapshot = _snapshot(objective, n=200, d=10)
    spec = job(objective, time_s=1e-4)
    assert_honest(snapshot, spec, solve(snapshot, spec))
