"""Constraints on hidden blocks: what the box rules out, floors of rare classes, and what a search ends with."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared.activations import Activation
from shared.contracts import JobSpec, SolveStatus
from shared.objectives import WORST, Objective, ObjectiveName
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.network import network_of
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.stand_ins import stand_in
from solver_service.milp.network.weighing import Weighing
from solver_service.milp.solve import solve


def two_units(activation: str = "relu", inputs: np.ndarray | None = None) -> Snapshot:
    """A binary block of two units on two inputs; no weight can reach 0 with a radius of 0.1."""
    drawn = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    return Snapshot(
        task="binary",
        inputs=drawn if inputs is None else inputs,
        targets=(drawn[:, 0] > 0).astype(np.int64),
        weight=np.array([[2.0, 0.3], [0.4, -0.2]], np.float32),
        bias=np.zeros(2, np.float32),
        activation=Activation.parse(activation),
        tail=(TailLayer(np.array([[1, -1]], np.float32), np.zeros(1, np.float32), Activation.parse("identity")),),
    )


def job(*constraints: dict[str, Any], **more: Any) -> JobSpec:
    fields = {"objective": "zero_one", "radius": 0.1, "constraints": constraints, "limits": {"time_s": 20, "nodes": 0}}
    return JobSpec.model_validate(fields | more)


def skewed(seed: int, activation: str, rare: int) -> Snapshot:
    """Four units on four inputs, 200 samples of three classes: a few of class 0, of which the inputs tell nothing."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(200, 4)).astype(np.float32)
    scores = np.tanh(inputs @ rng.normal(size=(4, 6))) @ rng.normal(size=(6, 2)) + 0.3 * rng.normal(size=(200, 2))
    targets = scores.argmax(axis=1) + 1
    targets[:rare] = 0
    weight = (rng.normal(size=(4, 4)) / 2).astype(np.float32)
    last = TailLayer(
        (rng.normal(size=(3, 4)) / 2).astype(np.float32), np.zeros(3, np.float32), Activation.parse("identity")
    )
    return Snapshot(
        task="classification",
        inputs=inputs,
        targets=targets,
        group=np.arange(200) % 2,
        weight=weight,
        bias=np.zeros(4, np.float32),
        activation=Activation.parse(activation),
        tail=(last,),
    )


def outputs_with(snapshot: Snapshot, right: dict[int, float]) -> np.ndarray:
    """Outputs [N, K] under which of each class that share is right; the others are called the next class."""
    targets = np.asarray(snapshot.targets)
    called = (targets + 1) % 3
    for number, share in right.items():
        members = np.flatnonzero(targets == number)
        called[members[: round(share * members.size)]] = number
    return np.asarray(np.eye(3)[called])


@pytest.mark.parametrize(("activation", "tail_radius"), [("relu", 0.0), ("tanh", 1.0)])
@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        ({"type": "max_nonzero", "value": 3, "classes": [0, 1]}, "4 of the weights cannot reach 0"),
        ({"type": "levels", "levels": [0.0, 0.5]}, "none of its levels is within reach of weight [0, 0]"),
        ({"type": "grid", "value": 5.0, "classes": [1]}, "no multiple of 5 is within reach of weight [1, 0]"),
        ({"type": "nonnegative", "value": 0}, "weight [1, 1] cannot reach 0"),
    ],
)
def test_what_the_box_rules_out_is_told_at_once_with_its_name(
    activation: str, tail_radius: float, constraint: dict[str, Any], reason: str
) -> None:
    """The note names the constraint and the first weight at fault, whatever the block's activation and tail."""
    met = {"type": "movement_cost", "value": 0.1}
    result = solve(two_units(activation), job(met, constraint, tail_radius=tail_radius)).result
    assert result.status is SolveStatus.INFEASIBLE
    assert not result.feasible
    assert result.notes[0] == f"constraints.1 ({constraint['type']}) cannot be met in this region: {reason}"


def test_weights_that_two_constraints_pull_apart_are_told_at_once() -> None:
    """Each of them can be met alone: level 0.25 is within reach of weight [1, 1] only above 0."""
    levels = {"type": "levels", "levels": [0.25], "classes": [1], "indices": [1]}
    below = {"type": "monotone", "value": -1, "classes": [1], "indices": [1]}
    result = solve(two_units(), job(levels, below, radius=0.5)).result
    assert result.status is SolveStatus.INFEASIBLE
    assert result.notes[0].startswith("the constraints cannot be met together in this region")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({"time_s": 20, "nodes": 0}, SolveStatus.NODE_LIMIT), ({"time_s": 1.2}, SolveStatus.TIME_LIMIT)],
)
def test_a_search_that_finds_nothing_feasible_ends_by_a_limit(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], expected: SolveStatus
) -> None:
    """There is no gap where nothing keeps the constraints; searches do not give up before their limit then."""
    monkeypatch.setattr("solver_service.milp.network.solve.JOINT_PATIENCE", 0)
    alike = np.ones((20, 2), np.float32)  # no weights tell the samples of the two classes apart
    spec = job({"type": "recall_floor", "value": 1.0}, limits=limits, tail_radius=1.0)
    result = solve(two_units("tanh", alike), spec).result
    assert not result.feasible
    assert result.status is expected


def test_the_price_of_movement_has_a_slope_where_nothing_can_move() -> None:
    """Weights that are pinned have boxes of no width, and a price all the same: its slope there is 0."""
    snapshot = two_units()
    spec = job(objective="hinge", radius=1.0)
    whole = Evaluator(network_of(snapshot, spec), stand_in(spec.goal, snapshot))
    own = whole.scaling.own_variables
    pinned = whole.within(own, own)
    pinned.prices = np.ones(own.size)
    free = whole.following(whole.stand_in)
    value, slope = pinned(own)
    assert value == pytest.approx(free(own)[0])
    np.testing.assert_allclose(slope, free(own)[1])


@pytest.mark.parametrize(("seed", "activation"), [(1, "gelu"), (2, "relu")])
def test_the_floor_of_a_rare_class_is_reached(seed: int, activation: str) -> None:
    """Two of 200 samples have to be right. A count has no slope for them from far away, however much they weigh."""
    floor = {"type": "recall_floor", "value": 0.6}
    result = solve(skewed(seed, activation, rare=2), job(floor, radius=1.0, tail_radius=1.0)).result
    assert result.feasible
    assert result.objective.final <= 30


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_floor_costs_no_more_loss_than_it_asks_for(activation: str) -> None:
    """What was raised for it is taken back again: without floors the loss is 0.40 and 0.39."""
    floor = {"type": "recall_floor", "value": 0.5}
    spec = job(floor, objective="log_loss", radius=1.0, tail_radius=1.0)
    result = solve(skewed(1, activation, rare=25), spec).result
    assert result.feasible
    assert result.objective.final < 0.53


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_the_worst_class_of_a_hidden_block_is_not_the_mean_class(activation: str) -> None:
    """The search follows the largest rate itself: at the best mean of the rates 0.4 or more of class 0 are wrong."""
    result = solve(skewed(1, activation, rare=25), job(objective="worst_class", radius=1.0, tail_radius=1.0)).result
    assert result.objective.final <= 0.32


@pytest.mark.parametrize("name", WORST)
@pytest.mark.parametrize("task", ["classification", "binary"])
def test_the_stand_in_of_the_worst_rate_is_near_it_and_has_its_slope(name: ObjectiveName, task: str) -> None:
    """Close up it is the worst cell's rate, and differences agree with its derivative."""
    snapshot = skewed(3, "relu", rare=25)
    if task == "binary":
        snapshot = replace(
            snapshot,
            task="binary",
            targets=(np.asarray(snapshot.targets) == 1).astype(np.int64),
            tail=(replace(snapshot.tail[0], weight=snapshot.tail[0].weight[:1], bias=np.zeros(1, np.float32)),),
        )
    goal, rng = Objective(name), np.random.default_rng(0)
    outputs = rng.normal(size=(snapshot.outputs, 200))
    close = stand_in(goal, snapshot, softness=1e-3)
    assert close(outputs)[0] == pytest.approx(goal.of_outputs(snapshot, outputs.T), abs=0.05)
    wide, way = stand_in(goal, snapshot, softness=1.0), rng.normal(size=outputs.shape)
    slope = (wide(outputs + 1e-6 * way)[0] - wide(outputs - 1e-6 * way)[0]) / 2e-6
    assert float((wide(outputs)[1] * way).sum()) == pytest.approx(slope, rel=1e-5)


def test_a_class_weighs_more_while_it_falls_short_and_no_more_after() -> None:
    """Far below its floor it begins as heavy as the others; with room it comes back to its own weight."""
    snapshot = skewed(4, "relu", rare=5)
    weighing = Weighing(snapshot, job({"type": "recall_floor", "value": 0.6, "classes": [0, 1]}).constraints)
    rare = np.asarray(snapshot.targets) == 0
    short, kept = outputs_with(snapshot, {0: 0.0, 1: 0.9, 2: 0.9}), outputs_with(snapshot, {0: 1.0, 1: 0.9, 2: 0.9})
    assert weighing.shortfall(short) == pytest.approx(0.6)
    weighing.learn(short)
    assert weighing.raised
    assert weighing.importance[rare].sum() > 0.3 * 200
    assert weighing.shortfall(kept) == 0
    for _ in range(10):
        weighing.learn(kept)
    np.testing.assert_allclose(weighing.importance, 1.0)


def test_a_gap_weighs_groups_against_each_other_until_it_is_kept() -> None:
    """The group of the lower rate weighs more and the other less; inside the gap both come back, and never past 1."""
    snapshot = skewed(4, "relu", rare=5)
    weighing = Weighing(snapshot, job({"type": "group_rate_gap", "value": 0.1}).constraints)
    group, targets = np.asarray(snapshot.group), np.asarray(snapshot.targets)
    wrong = (group == 0) & (np.arange(200) % 4 < 2)
    apart, close = np.eye(3)[np.where(wrong, (targets + 1) % 3, targets)], np.eye(3)[targets]
    weighing.learn(apart)
    assert weighing.importance[group == 0].mean() > 1 > weighing.importance[group == 1].mean()
    for _ in range(40):
        weighing.learn(close)
    np.testing.assert_allclose(weighing.importance, 1.0)


def test_all_samples_together_weigh_the_same_whatever_is_asked_of_them() -> None:
    """A floor on the accuracy raises nothing, and there is nothing to settle."""
    snapshot = skewed(4, "relu", rare=5)
    weighing = Weighing(snapshot, job({"type": "min_accuracy", "value": 0.9}).constraints)
    assert weighing.learn(outputs_with(snapshot, {0: 0.1})) == 0
    assert not weighing.raised
