"""Descents over many variables of a hidden block: begun at once, as good as SciPy's, and none where the time is up."""

import numpy as np
import pytest
from scipy.optimize import Bounds, lsq_linear, minimize

from shared.activations import IDENTITY, Activation
from shared.contracts import JobSpec
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.network import network_of
from solver_service.milp.core.problem import Array
from solver_service.milp.network.joint import descent
from solver_service.milp.network.joint.descent import Descender, Descent
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.fitting import fit
from solver_service.milp.network.joint.many_variables import descend
from solver_service.milp.network.joint.stand_ins import stand_in
from solver_service.milp.network.keeping import Keeper


def wide(inputs: int, units: int, activation: str = "relu", task: str = "regression", samples: int = 60) -> Snapshot:
    """A block of many weights before two outputs."""
    rng = np.random.default_rng(0)
    given = rng.normal(size=(samples, inputs)).astype(np.float32)
    scores = np.sin(2 * given @ rng.normal(size=(inputs, 2)) / np.sqrt(inputs))
    targets = scores.astype(np.float32) if task == "regression" else scores.argmax(axis=1).astype(np.int64)
    last = TailLayer(
        (rng.normal(size=(2, units)) / np.sqrt(units)).astype(np.float32), np.zeros(2, np.float32), IDENTITY
    )
    return Snapshot(
        task="regression" if task == "regression" else "classification",
        inputs=given,
        targets=targets,
        weight=(rng.normal(size=(units, inputs)) / np.sqrt(inputs)).astype(np.float32),
        bias=np.zeros(units, np.float32),
        activation=Activation.parse(activation),
        tail=(last,),
    )


def evaluator(snapshot: Snapshot, spec: JobSpec) -> Evaluator:
    return Evaluator(network_of(snapshot, spec), stand_in(spec.goal, snapshot))


def spec_of(objective: str, radius: float, **more: object) -> JobSpec:
    return JobSpec.model_validate({"objective": objective, "radius": radius, "tail_radius": radius} | more)


@pytest.mark.parametrize("held", [False, True])
def test_a_descent_over_many_variables_begins_at_once(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """400,000 variables, in their box or pinned, and the time is up: SciPy, which looks at each first, is not asked."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("SciPy's start is a part of a second")

    monkeypatch.setattr(descent, "minimize", asked)
    snapshot = wide(4000, 100, samples=2)
    whole = evaluator(snapshot, spec_of("mse", 0.1))
    own = whole.scaling.own_variables
    descender = Descender(whole.within(own, own) if held else whole, lambda: True)
    np.testing.assert_allclose(descender(own, effort=40).variables, own)


def test_nothing_is_rounded_by_and_by_where_the_time_is_up() -> None:
    """A descent for each part would be begun for nothing."""
    snapshot, spec = wide(5, 4), spec_of("mse", 1.0, constraints=[{"type": "grid", "value": 0.5}])
    whole = evaluator(snapshot, spec)
    found = Descent(whole.scaling.own_variables, 1.0, 0)
    assert fit(whole, Keeper(snapshot, spec), found, lambda: True) is found


@pytest.mark.parametrize("radius", [0.02, 1.0])
@pytest.mark.parametrize(
    ("objective", "task", "activation"),
    [
        ("mse", "regression", "relu"),
        ("mae", "regression", "gelu"),
        ("log_loss", "classification", "silu"),
        ("hinge", "classification", "tanh"),
    ],
)
def test_descents_over_many_variables_end_where_scipys_do(
    objective: str, task: str, activation: str, radius: float
) -> None:
    """Or below: after as many evaluations as SciPy is given."""
    whole = evaluator(wide(60, 50, activation, task), spec_of(objective, radius))
    own = whole.scaling.own_variables
    assert own.size > 2000
    box = Bounds(whole.lower, whole.upper)
    other = minimize(whole, own, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 100, "maxcor": 12})
    found = Descender(whole, lambda: False)(own, effort=100)
    assert np.all((found.variables >= whole.lower) & (found.variables <= whole.upper))
    assert found.value <= 1.03 * float(other.fun) + 1e-6 * whole.value(own)


def test_squares_in_a_box_come_to_their_minimum() -> None:
    """Against bounded least squares, with many variables at sides of the box."""
    rng = np.random.default_rng(1)
    matrix, wanted = rng.normal(size=(80, 40)) * 10.0 ** rng.uniform(-1, 1, 40), rng.normal(size=80)

    def squares(point: Array) -> tuple[float, Array]:
        error = matrix @ point - wanted
        return 0.5 * float(error @ error), matrix.T @ error

    side = np.full(40, 0.02)
    best = lsq_linear(matrix, wanted, (-side, side), tol=1e-12)
    found = descend(squares, np.zeros(40), -side, side, steps=500)
    assert np.count_nonzero(np.abs(found) == side) > 5
    assert squares(found)[0] == pytest.approx(float(best.cost), rel=1e-5)
