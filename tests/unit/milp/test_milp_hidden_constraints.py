"""Constraints on hidden blocks: what the box rules out, floors of rare classes, and what a search ends with."""

from typing import Any

import numpy as np
import pytest

from shared.activations import Activation
from shared.contracts import JobSpec, SolveStatus
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.network import network_of
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.stand_ins import stand_in
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
