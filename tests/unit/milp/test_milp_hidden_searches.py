"""Hidden blocks where scripts were ahead: annealed counts of values, prices of movement, minibatches in short times."""

import numpy as np
import pytest

from shared.activations import IDENTITY, Activation
from shared.contracts import JobSpec
from shared.objectives import Objective
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.budget import ENDLESS, Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.network import network_of
from solver_service.milp.core.problem import Array
from solver_service.milp.network.joint.descent import Descender
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.minibatches import Minibatches
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.joint.search import JointSearch
from solver_service.milp.network.joint.sides import Sides
from solver_service.milp.network.joint.stand_ins import stand_in
from solver_service.milp.network.keeping import Keeper
from solver_service.milp.solve import solve


def hidden(seed: int, task: str = "regression", outputs: int = 1) -> Snapshot:
    """Eight units before values with a few that are far off, or before several labels."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(300, 4)).astype(np.float32)
    truth = np.sin(2 * inputs @ rng.normal(size=(4, outputs))) + 0.1 * rng.standard_t(2, size=(300, outputs))
    return Snapshot(
        task="regression" if task == "regression" else "multilabel",
        inputs=inputs,
        targets=truth.astype(np.float32) if task == "regression" else (truth > 0).astype(np.int64),
        weight=rng.normal(size=(8, 4)).astype(np.float32),
        bias=rng.normal(size=8).astype(np.float32),
        activation=Activation.parse("relu"),
        tail=(TailLayer(rng.normal(size=(outputs, 8)).astype(np.float32), np.zeros(outputs, np.float32), IDENTITY),),
    )


@pytest.mark.parametrize(
    ("objective", "task", "outputs"),
    [("outliers", "regression", 1), ("zero_one", "multilabel", 3)],
)
def test_counts_of_values_and_of_several_labels_are_annealed(
    objective: str, task: str, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rounds, not by the clock; several blocks, as one may end anywhere."""
    more = {"tolerance": 0.15} if objective == "outliers" else {}
    limits = {"nodes": 1, "time_s": 600}
    fields = {"objective": objective, "radius": 2.0, "tail_radius": 2.0, "limits": limits}
    spec = JobSpec.model_validate(fields | more)
    monkeypatch.setattr("solver_service.milp.network.solve.fits", lambda _: False)
    found = [solve(hidden(seed, task, outputs), spec).result.objective.final for seed in range(3)]
    monkeypatch.setattr(JointSearch, "_annealing", None)
    before = [solve(hidden(seed, task, outputs), spec).result.objective.final for seed in range(3)]
    assert sum(found) < 0.95 * sum(before)


def paid(seed: int, price: float) -> tuple[Evaluator, Objective]:
    """A block whose movement has a price."""
    snapshot = hidden(seed)
    asked = [{"type": "movement_cost", "value": price}]
    spec = JobSpec.model_validate({"objective": "mse", "radius": 1.0, "constraints": asked})
    evaluate = Evaluator(network_of(snapshot, spec), stand_in(spec.goal, snapshot))
    prices = Keeper(snapshot, spec).prices(evaluate.scaling.weight_count)
    assert prices is not None
    evaluate.prices = prices[evaluate.scaling.free] * evaluate.scaling.unit
    return evaluate, spec.goal


def proximal(evaluate: Evaluator, begin: Array, rounds: int) -> float:
    """What proximal gradient steps come to that are halved until they descend: the script."""
    assert evaluate.prices is not None
    own = evaluate.scaling.own_variables
    now, length = begin.copy(), 1.0
    value = evaluate.value(now)
    for _ in range(rounds):
        slope = evaluate.unpaid(now)[1]
        while length > 1e-12:
            way = now - length * slope - own
            tried = own + np.sign(way) * np.maximum(np.abs(way) - length * evaluate.prices, 0.0)
            tried = np.clip(tried, evaluate.lower, evaluate.upper)
            if evaluate.value(tried) < value:
                now, value, length = tried, evaluate.value(tried), 1.5 * length
                break
            length *= 0.5
    return value


@pytest.mark.parametrize("price", [0.3, 0.03])
def test_proximal_steps_gain_nothing_where_a_descent_ends_whose_movement_has_a_price(price: float) -> None:
    """And weights end exactly where they were, while the biases, which are free, have moved."""
    for seed in range(3):
        evaluate, _ = paid(seed, price)
        own = evaluate.scaling.own_variables
        found = Descender(evaluate, lambda: False)(own, effort=300)
        still = (found.variables == own)[evaluate.prices > 0]
        assert found.value == pytest.approx(evaluate.value(found.variables), rel=1e-9)
        assert found.value <= proximal(evaluate, found.variables, 100) * 1.001
        assert still.any() if price < 0.1 else still.mean() > 0.5
        assert (found.variables != own)[evaluate.prices == 0].any()


def test_sides_have_their_slope_and_lead_back() -> None:
    """Against differences, at a point off the kinks; also in a box that does not hold the snapshot's weights."""
    evaluate, _ = paid(5, 0.1)
    rng, shift = np.random.default_rng(0), 0.2 * (evaluate.upper - evaluate.lower)
    beside = evaluate.within(evaluate.scaling.own_variables + shift, evaluate.upper)
    for one in (evaluate, beside):
        sides = Sides(one)
        variables = rng.uniform(one.lower, one.upper)
        point = sides.apart(variables)
        np.testing.assert_allclose(sides.together(point), variables, atol=1e-12)
        value, slope = sides(point)
        assert value == pytest.approx(one.value(variables), rel=1e-9)
        direction = np.where((point > sides.lower) & (point < sides.upper), rng.normal(size=point.size), 0.0)
        change = sides(point + 1e-6 * direction)[0] - sides(point - 1e-6 * direction)[0]
        assert change / 2e-6 == pytest.approx(float(slope @ direction), rel=1e-3, abs=1e-6)


class Ticking(Control):
    """A clock that goes on by a hundredth of a second at each look."""

    ticks = 0

    @property
    def elapsed(self) -> float:
        self.ticks += 1
        return 0.01 * self.ticks


def test_minibatches_of_counts_take_nearly_all_of_a_time_that_is_short() -> None:
    """Whole runs gain nothing in what half of it would leave; with time for many passes half of it is enough."""
    network = network_of(hidden(0, "multilabel", 2), JobSpec.model_validate({"objective": "zero_one", "radius": 2.0}))
    used = []
    for until in (4.0, 40.0):
        control = Ticking()
        batches = Minibatches(network, Objective("zero_one"), Scaling(network), np.random.default_rng(0))
        batches.descend(Scaling(network).own_variables, lambda _: None, Budget(control, until, ENDLESS))
        used.append(0.01 * control.ticks / until)
    assert used[0] > 0.7
    assert used[1] < 0.6
