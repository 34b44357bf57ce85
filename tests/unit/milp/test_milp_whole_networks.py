"""Whole networks: gradients against differences, descents that never lose ground, tails of any depth, constraints."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from shared.activations import PIECEWISE, SMOOTH, Activation
from shared.constraints import violations
from shared.contracts import JobSpec, SolveStatus
from shared.errors import SpecError
from shared.objectives import Objective
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.network import Network, network_of
from solver_service.milp.core.problem import Array
from solver_service.milp.core.solution import Solution
from solver_service.milp.network.arms import Arms, relative_gain
from solver_service.milp.network.joint import search
from solver_service.milp.network.joint.descent import Descender
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.fitting import rounded
from solver_service.milp.network.joint.gauss_newton import gauss_newton
from solver_service.milp.network.joint.initial import fresh
from solver_service.milp.network.joint.minibatches import Minibatches
from solver_service.milp.network.joint.replacement import replace_unit, replaceable
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.joint.search import JointSearch
from solver_service.milp.network.joint.stand_ins import stand_in
from solver_service.milp.network.keeping import Keeper
from solver_service.milp.solve import solve

OBJECTIVES = ("mse", "mae", "max_error", "outliers", "zero_one", "ramp", "hinge")


def network(
    seed: int, activation: str = "relu", *, task: str = "regression", depth: int = 1, offset: bool = False, n: int = 40
) -> Snapshot:
    """A block of five units on three inputs, `depth` tail layers behind it, two outputs or classes."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 3)).astype(np.float32)
    truth = np.tanh(2 * inputs @ rng.normal(size=(3, 2)))
    tail = []
    for number in range(depth):
        width, last = (2 if number == depth - 1 else 4), number == depth - 1
        before = 5 if number == 0 else 4
        weight = rng.normal(size=(width, before)).astype(np.float32)
        shift = rng.normal(size=(n, width)).astype(np.float32) if offset else None
        name = "identity" if last else activation
        tail.append(TailLayer(weight, np.zeros(width, np.float32), Activation.parse(name), shift))
    return Snapshot(
        task="regression" if task == "regression" else "classification",
        inputs=inputs,
        targets=truth.astype(np.float32) if task == "regression" else truth.argmax(axis=1),
        weight=rng.normal(size=(5, 3)).astype(np.float32),
        bias=rng.normal(size=5).astype(np.float32),
        activation=Activation.parse(activation),
        tail=tuple(tail),
    )


def spec_of(objective: str, **more: object) -> JobSpec:
    fields = {"objective": objective, "radius": 2.0, "tail_radius": 2.0, "limits": {"time_s": 20, "nodes": 0}}
    return JobSpec.model_validate(fields | {"tolerance": 0.2 if objective == "outliers" else None} | more)


def view(snapshot: Snapshot, tail_radius: float | list[float]) -> Network:
    return network_of(snapshot, spec_of("mse", tail_radius=tail_radius))


def evaluator(snapshot: Snapshot, objective: str = "mse", tail_radius: float | list[float] = 2.0) -> Evaluator:
    goal = spec_of(objective).goal
    return Evaluator(view(snapshot, tail_radius), stand_in(goal, snapshot))


def task_of(objective: str) -> str:
    return "classification" if objective in ("zero_one", "ramp", "hinge") else "regression"


def within(evaluate: Evaluator, point: Array) -> bool:
    return bool((point >= evaluate.lower).all() and (point <= evaluate.upper).all())


def differences_agree(evaluate: Evaluator, seed: int) -> None:
    rng = np.random.default_rng(seed)
    point = rng.uniform(evaluate.lower, evaluate.upper)
    direction = rng.normal(size=point.size)
    _, gradient = evaluate(point)
    step = 1e-6
    change = evaluate.value(point + step * direction) - evaluate.value(point - step * direction)
    assert change / (2 * step) == pytest.approx(float(gradient @ direction), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("activation", ["leaky_relu:0.2" if a == "leaky_relu" else a for a in (*PIECEWISE, *SMOOTH)])
def test_gradients_through_every_activation_agree_with_differences(activation: str) -> None:
    """Three layers, all free, with offsets."""
    snapshot = network(1, activation, depth=3, offset=True)
    differences_agree(evaluator(snapshot, tail_radius=[1.0, 0.5, 2.0]), seed=2)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("capped", [True, False])
def test_gradients_of_every_objective_agree_with_differences(objective: str, capped: bool) -> None:
    """The stand-in's slope is that of its value, with uneven sample weights."""
    snapshot = network(3, task=task_of(objective))
    weights = np.linspace(0, 2, snapshot.samples).astype(np.float32)
    snapshot = replace(snapshot, sample_weight=weights)
    function = stand_in(spec_of(objective).goal, snapshot, capped=capped)
    differences_agree(Evaluator(view(snapshot, 2.0), function), seed=4)


def test_the_price_of_movement_has_its_slope() -> None:
    """Descents see what movement costs."""
    evaluate = evaluator(network(4))
    evaluate.prices = np.linspace(0.0, 1.0, evaluate.scaling.size)
    differences_agree(evaluate, seed=5)


@pytest.mark.parametrize("tail_radius", [0.0, 2.0, [0.0, 1.0], [1.0, 0.0]])
def test_outputs_are_those_of_the_weights_that_come_back(tail_radius: float | list[float]) -> None:
    """Variables, steps and float32 weights speak of the same network, whichever layers move."""
    snapshot = network(5, depth=2, offset=True)
    evaluate = evaluator(snapshot, tail_radius=tail_radius)
    net, scaling = evaluate.network, evaluate.scaling
    variables = np.random.default_rng(6).uniform(scaling.lower, scaling.upper)
    moved = net.moved(scaling.step(variables))
    value = Objective("mse").value(snapshot, moved.weight, moved.bias, net.tail_with(moved))
    assert evaluate.value(variables) == pytest.approx(value, rel=1e-4)
    np.testing.assert_allclose(scaling.variables(net.step_to(moved)), variables, atol=1e-5)


def test_float32_and_a_part_of_the_samples_give_nearly_the_same() -> None:
    """What minibatches compute in is good enough to descend by."""
    snapshot = network(7)
    exact = evaluator(snapshot)
    rows = np.arange(0, snapshot.samples, 2)
    part = Evaluator(exact.network, stand_in(Objective("mse"), snapshot, rows), rows, np.float32, exact.scaling)
    point = fresh(exact.scaling, np.random.default_rng(0))
    outputs = exact.outputs(point)[:, rows].copy()
    np.testing.assert_allclose(part.outputs(point), outputs, atol=1e-5)


def test_gauss_newton_never_climbs_and_stays_in_the_box() -> None:
    """From a start on the box's edge it ends lower, inside the box."""
    evaluate = evaluator(network(8, n=60))
    begin = evaluate.upper.copy()
    found = gauss_newton(evaluate, begin, rounds=20, gain=0.0, target=np.inf, over=lambda: False)
    assert found.value < evaluate.value(begin)
    assert found.value == pytest.approx(evaluate.value(found.variables))
    assert within(evaluate, found.variables)


def test_the_jacobian_gives_the_gradient_of_squares() -> None:
    """J^T times the residual is half the gradient of the sum of squares."""
    snapshot = network(9, "tanh", depth=2)
    evaluate = evaluator(snapshot, tail_radius=[2.0, 2.0])
    point = fresh(evaluate.scaling, np.random.default_rng(1))
    error = evaluate.outputs(point) - np.asarray(snapshot.targets).T
    rows = evaluate.jacobian(point, np.ones(snapshot.samples))
    by_weight = np.einsum("kpn,kn->p", rows, error) * 2 / error.size
    np.testing.assert_allclose(by_weight * evaluate.scaling.unit, evaluate(point)[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", ["mae", "ramp"])
def test_a_descent_ends_no_higher_than_it_began(objective: str) -> None:
    """L-BFGS-B inside the box keeps the best point it saw."""
    snapshot = network(10, task=task_of(objective))
    evaluate = evaluator(snapshot, objective)
    begin = fresh(evaluate.scaling, np.random.default_rng(2))
    found = Descender(evaluate, lambda: False)(begin, effort=50)
    assert found.value <= evaluate.value(begin)
    assert found.value == pytest.approx(evaluate.value(found.variables))


def test_a_descent_without_time_returns_where_it_began() -> None:
    """Nothing is evaluated once the time is up, and nothing breaks."""
    snapshot = network(10, task="classification")
    evaluate = evaluator(snapshot, "ramp")
    begin = fresh(evaluate.scaling, np.random.default_rng(2))
    found = Descender(evaluate, lambda: True)(begin, effort=50)
    np.testing.assert_array_equal(found.variables, begin)
    assert found.value == np.inf


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("objective", ["mse", "mae", "ramp"])
def test_a_replaced_unit_leaves_all_others_of_its_layer_alone(activation: str, objective: str) -> None:
    """One row of the block is new, the rest is as it was, and everything is inside the box."""
    evaluate = evaluator(network(11, activation, task=task_of(objective)), objective)
    rng = np.random.default_rng(3)
    before = fresh(evaluate.scaling, rng)
    after = replace_unit(evaluate, before, rng)
    assert within(evaluate, after)
    own, new = (evaluate.scaling.weights(each)[0] for each in (before, after))
    assert (np.abs(own - new).max(axis=1) > 1e-9).sum() == 1


def test_units_are_replaced_only_where_the_next_layer_moves() -> None:
    """A new unit needs outgoing weights of its own."""
    snapshot = network(12, depth=2)
    assert replaceable(evaluator(snapshot, tail_radius=[1.0, 1.0])) == [0, 1]
    assert replaceable(evaluator(snapshot, tail_radius=[1.0, 0.0])) == [0]
    assert replaceable(evaluator(snapshot, tail_radius=1.0)) == []


def test_minibatches_descend_and_show_what_they_come_to() -> None:
    """A descent over batches ends lower than it began, and every point it shows lies in the box."""
    snapshot = network(13, n=400)
    net, goal = view(snapshot, 2.0), Objective("mse")
    scaling, shown = Scaling(net), []
    batches = Minibatches(net, goal, scaling, np.random.default_rng(0))
    begin = scaling.variables(np.zeros(net.size))
    end = batches.descend(begin, shown.append, Budget(Control(), 60.0, 10))
    evaluate = Evaluator(net, stand_in(goal, snapshot), scaling=scaling)
    assert evaluate.value(end) < 0.5 * evaluate.value(begin)
    assert len(shown) == 8  # after 30, 100 and 300 steps, then after each tenth of them all
    assert all(within(evaluate, point) for point in shown)


def check(solution: Solution, snapshot: Snapshot, spec: JobSpec) -> None:
    """The value is that of the weights, which lie in their boxes."""
    net = network_of(snapshot, spec)
    value = spec.goal.value(snapshot, solution.weight, solution.bias, net.tail_with(solution.moved))
    assert solution.result.objective.final == pytest.approx(value, rel=1e-12)
    assert np.abs(solution.weight - snapshot.weight).max() <= spec.radius
    for index, width in enumerate(spec.tail_radii(len(snapshot.tail))):
        moved = solution.tail.get(f"tail.{index}.weight")
        assert (moved is None) == (width == 0)
        if moved is not None:
            assert np.abs(moved - snapshot.tail[index].weight).max() <= width


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_all_layers_of_a_deep_tail_come_back_inside_their_boxes(activation: str) -> None:
    """With a list every tail layer moves by its own half-width; one of 0 stays."""
    snapshot = network(14, activation, depth=3, offset=True)
    spec = spec_of("mse", tail_radius=[0.5, 0.0, 1.5])
    solution = solve(snapshot, spec)
    check(solution, snapshot, spec)
    assert solution.result.objective.final < 0.5 * solution.result.objective.start
    assert solution.result.objective.bound == 0.0


def test_a_smooth_activation_with_a_fixed_tail_is_searched_without_proof() -> None:
    """There is no linear model; a note says so."""
    snapshot = network(15, "gelu", n=15)
    result = solve(snapshot, spec_of("mae", tail_radius=0.0, limits={"time_s": 0.5})).result
    assert result.improved
    assert result.objective.bound == 0.0
    assert result.status in (SolveStatus.GAP_REACHED, SolveStatus.TIME_LIMIT)
    assert result.notes[0].startswith("gelu is not piecewise linear")


def test_as_many_half_widths_as_tail_layers_are_asked_for() -> None:
    """A list of another length is refused, and the field named."""
    with pytest.raises(SpecError) as caught:
        spec_of("mse", tail_radius=[1.0, 1.0]).check(network(16))
    assert caught.value.field == "tail_radius"


@pytest.mark.parametrize(
    "constraints",
    [
        [{"type": "nonnegative", "value": 0}],
        [{"type": "monotone", "value": -1, "classes": [0, 2]}],
        [{"type": "grid", "value": 0.5}],
        [{"type": "max_nonzero", "value": 7}],
        [{"type": "max_nonzero", "value": 9}, {"type": "grid", "value": 0.25}],
    ],
)
def test_constraints_on_a_hidden_blocks_weights_are_kept(constraints: list[dict[str, object]]) -> None:
    """Signs, zeros and grids hold exactly in the float32 weights, and what is left still improves."""
    snapshot = network(17)
    spec = spec_of("mse", radius=3.0, constraints=constraints)
    solution = solve(snapshot, spec)
    check(solution, snapshot, spec)
    assert not violations(spec.constraints, snapshot, solution.weight, solution.bias)
    assert solution.result.improved


@pytest.mark.parametrize("constraint", [{"type": "nonnegative", "value": 0}, {"type": "grid", "value": 50.0}])
def test_a_box_that_no_constraint_fits_into_is_infeasible(constraint: dict[str, object]) -> None:
    """A weight that cannot reach its side of zero, or a multiple of its grid, is a proof; the answer is the start."""
    snapshot = network(17)
    snapshot = replace(snapshot, weight=snapshot.weight - np.float32(20))
    result = solve(snapshot, spec_of("mse", constraints=[constraint])).result
    assert result.status is SolveStatus.INFEASIBLE
    assert not result.improved


@pytest.mark.parametrize(
    "constraint",
    [
        {"type": "min_accuracy", "value": 0.9},
        {"type": "recall_floor", "value": 0.9, "classes": [1]},
        {"type": "group_rate_gap", "value": 0.1},
    ],
)
def test_shares_are_kept_by_whatever_a_hidden_block_returns(constraint: dict[str, object]) -> None:
    """Only weights that keep the share through the tail are taken."""
    snapshot = network(18, task="classification", n=80)
    snapshot = replace(snapshot, group=np.arange(80) % 2)
    spec = spec_of("ramp", constraints=[constraint])
    solution = solve(snapshot, spec)
    tail = network_of(snapshot, spec).tail_with(solution.moved)
    assert not violations(spec.constraints, snapshot, solution.weight, solution.bias, tail)
    assert solution.result.objective.final <= 20


def test_movement_is_paid_for() -> None:
    """A high price for movement leaves the block where it is, and the value counts what was paid."""
    snapshot = network(19)
    dear = solve(snapshot, spec_of("mse", constraints=[{"type": "movement_cost", "value": 1e6}]))
    np.testing.assert_array_equal(dear.weight, snapshot.weight)


def test_a_node_limit_makes_the_joint_search_reproducible() -> None:
    """The same seed and number of rounds give the same weights, another seed others."""
    snapshot = network(20)
    first, again = (solve(snapshot, spec_of("mse", limits={"time_s": 60, "nodes": 5})) for _ in range(2))
    np.testing.assert_array_equal(first.weight, again.weight)
    np.testing.assert_array_equal(first.tail["tail.0.weight"], again.tail["tail.0.weight"])


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_of_inputs_and_targets_do_not_matter(scale: float) -> None:
    """The same network in other units ends at the same value, up to the square of the targets' unit."""
    snapshot = network(21)
    radius = np.full_like(snapshot.weight, 2.0)
    plain = replace(snapshot, radius=radius, bias_radius=np.full(5, 2, np.float32))
    scaled = replace(
        plain,
        inputs=(snapshot.inputs * np.float32(scale)),
        weight=(snapshot.weight / np.float32(scale)),
        radius=radius / np.float32(scale),
    )
    ends = [solve(each, spec_of("mse", radius=None)).result.objective.final for each in (plain, scaled)]
    assert ends[1] == pytest.approx(ends[0], rel=0.2)


def test_what_pays_is_drawn_more_often() -> None:
    """An arm that gains gets most of the rounds, the other keeps a share."""
    arms, rng = Arms({"good": 1.0, "bad": 1.0}), np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        name = arms.draw(rng)
        arms.learn(name, work=1.0, gain=0.01 if name == "good" else 0.0)
        drawn.append(name)
    assert 100 < drawn.count("good") < 200


def test_what_takes_long_gets_a_share_of_the_work_not_of_the_rounds() -> None:
    """Linear programs that gain nothing, each as long as a hundred descents, took nearly all of the time."""
    arms, rng = Arms({"short": 1.0, "long": 100.0}), np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        drawn.append(arms.draw(rng))
        arms.learn(drawn[-1], work=100.0 if drawn[-1] == "long" else 1.0, gain=0.01 if drawn[-1] == "short" else 0.0)
    assert drawn.count("long") <= 10


def test_the_first_feasible_weights_are_a_gain() -> None:
    """From nothing that keeps the constraints to something is all there is to gain."""
    assert relative_gain(np.inf, 3.0) == 1.0
    assert relative_gain(np.inf, np.inf) == 0.0
    assert relative_gain(4.0, 3.0) == 0.25


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_minibatches_of_counts_begin_on_cross_entropy(task: str) -> None:
    """From a young start a count's own slope leads nowhere: most samples are far off."""
    snapshot = counted(task)
    net, goal = view(snapshot, 2.0), Objective("zero_one")
    scaling = Scaling(net)
    batches = Minibatches(net, goal, scaling, np.random.default_rng(0))
    begin = scaling.variables(np.zeros(net.size))
    end = batches.descend(begin, lambda _: None, Budget(Control(), 60.0, 10))
    evaluate = Evaluator(net, stand_in(goal, snapshot), scaling=scaling)
    before, after = (goal.of_outputs(snapshot, evaluate.outputs(place).T) for place in (begin, end))
    assert after < 0.25 * before


def test_minibatches_weigh_samples_for_the_floors_that_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rare class, whose recall no plain descent keeps: something does as soon as minibatches end."""
    monkeypatch.setattr(search, "LARGE", 0)
    monkeypatch.setattr(search, "TOO_LARGE", 10**9)
    snapshot = counted("classification", rare=0.03)
    spec = JobSpec.model_validate(
        {"objective": "zero_one", "radius": 2.0, "tail_radius": 2.0}
        | {"constraints": [{"type": "recall_floor", "value": 0.9}], "limits": {"nodes": 1, "time_s": 600}}
    )
    minibatches: list[float] = []
    look = JointSearch._look

    def looked(self: JointSearch, variables: np.ndarray) -> None:
        look(self, variables)
        minibatches.append(self._incumbents.objective)

    monkeypatch.setattr(JointSearch, "_look", looked)
    assert solve(snapshot, spec).result.feasible
    assert np.isfinite(minibatches[-1])


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "max_nonzero", "value": 20},
        {"type": "levels", "levels": [-1.0, 0.0, 1.0]},
        {"type": "grid", "value": 1.0},
    ],
    ids=["max_nonzero", "levels", "grid"],
)
def test_minibatches_take_slopes_at_weights_that_may_be(asked: dict[str, Any]) -> None:
    """What is rounded only in the end has lost most of what was gained."""
    snapshot, goal = counted("classification"), Objective("log_loss")
    spec = JobSpec.model_validate({"objective": "log_loss", "radius": 2.0, "tail_radius": 2.0, "constraints": [asked]})
    net, keeper, ends = network_of(snapshot, spec), Keeper(snapshot, spec), []
    scaling = Scaling(net)
    evaluate = Evaluator(net, stand_in(goal, snapshot), scaling=scaling)
    for held in (partial(rounded, scaling, keeper), None):
        batches = Minibatches(net, goal, scaling, np.random.default_rng(0), held)
        end = batches.descend(scaling.variables(np.zeros(net.size)), lambda _: None, Budget(Control(), 60.0, 10))
        ends.append(evaluate.value(rounded(scaling, keeper, end)))
    assert ends[0] < 0.8 * ends[1]


def counted(task: str, *, rare: float = 0.3) -> Snapshot:
    """Classes that a hidden layer can tell apart, the last of them rare, and a start that has learnt nothing."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(600, 6)).astype(np.float32)
    scores = np.tanh(inputs @ rng.normal(size=(6, 5))) @ rng.normal(size=(5, 3))
    scores[:, 2] -= np.quantile(scores[:, 2] - scores[:, :2].max(axis=1), 1 - rare)
    targets = scores.argmax(axis=1) if task == "classification" else (scores > 0).astype(np.int64)
    tail = (rng.normal(size=(3, 12)) / np.sqrt(12)).astype(np.float32)
    return Snapshot(
        task=task,
        inputs=inputs,
        targets=targets,
        weight=(rng.normal(size=(12, 6)) / np.sqrt(6)).astype(np.float32),
        bias=np.zeros(12, dtype=np.float32),
        activation=Activation.parse("relu"),
        tail=(TailLayer(tail, np.zeros(3, np.float32), Activation.parse("identity")),),
    )
