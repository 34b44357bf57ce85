"""Descents on sigmoids that grow sharp: counts that a plain script of the same kind would not beat."""

from typing import Any

import numpy as np
import pytest

from shared.activations import Activation
from shared.contracts import JobSpec
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import problem_of
from solver_service.milp.heuristics.descents.annealed import AnnealedDescents
from solver_service.milp.heuristics.descents.annealed_counts import AnnealedCounts
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.network.joint.search import JointSearch
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.solve import solve

RECALL = {"type": "recall_floor", "value": 0.6, "classes": [2]}
PRECISION = {"type": "precision_floor", "value": 0.7, "classes": [1, 2]}
GAP = {"type": "group_rate_gap", "value": 0.02}
OBJECTIVES = ("zero_one", "ramp", "hinge", "log_loss", "worst_class", "worst_group")


def classes(samples: int = 300, width: int = 6, *, binary: bool = False) -> Snapshot:
    """Classes that overlap, one of them rare, in two groups, with weights that GD has not brought far."""
    rng = np.random.default_rng(5)
    number = 2 if binary else 3
    truth = rng.normal(size=(number, width))
    inputs = rng.normal(size=(samples, width)).astype(np.float32)
    targets = (inputs @ truth.T + np.linspace(0, -2, number) + rng.normal(size=(samples, number))).argmax(axis=1)
    weight = (0.4 * truth + 0.3 * rng.normal(size=truth.shape)).astype(np.float32)
    if binary:
        weight = weight[1:] - weight[:1]
    return Snapshot(
        task="binary" if binary else "classification",
        inputs=inputs,
        targets=targets.astype(np.int64),
        weight=weight,
        bias=np.zeros(len(weight), dtype=np.float32),
        group=rng.integers(0, 2, samples),
        sample_weight=rng.uniform(0.5, 2.0, samples).astype(np.float32),
    )


def spec_of(objective: str, constraints: list[dict[str, Any]], **more: Any) -> JobSpec:
    return JobSpec.model_validate({"objective": objective, "radius": 1.0, "constraints": constraints, **more})


def one_descent(snapshot: Snapshot, spec: JobSpec) -> Incumbents:
    """The first descent, from the snapshot's weights, alone."""
    problem, control = problem_of(snapshot, spec), Control()
    tally, rng = Tally.of(problem), np.random.default_rng(0)
    incumbents = Incumbents(problem, control)
    walk, block = Walk(problem, tally, rng), SinglePrecision.of(problem)
    AnnealedDescents(problem, tally, block, incumbents, walk, rng, True).advance(Budget(control, 1e9, 10))
    return incumbents


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("asked", [[], [RECALL, GAP], [PRECISION, RECALL, GAP]], ids=["free", "shares", "precision"])
def test_slopes_are_those_of_differences(objective: str, asked: list[dict[str, Any]], binary: bool) -> None:
    """The slope by the outputs is that of the value, with multipliers on all that is asked; kinks are farther off."""
    if binary:
        asked = [{**constraint, "classes": [1]} for constraint in asked]
    problem = problem_of(classes(60, binary=binary), spec_of(objective, asked))
    block = SinglePrecision.of(problem)
    counts = AnnealedCounts.of(problem, Tally.of(problem), block.unit)
    rng = np.random.default_rng(1)
    multipliers, start = rng.uniform(0.0, 1.0, counts.asked), block.scores.astype(np.float64)
    _, slope, lack = counts(block.scores, 0.7, multipliers, 2.0)
    assert len(lack) == counts.asked
    for _ in range(5):
        step = rng.normal(size=start.shape)
        low, high = (counts((start + far * step).astype(np.float32), 0.7, multipliers, 2.0)[0] for far in (-1e-3, 1e-3))
        assert (high - low) / 2e-3 == pytest.approx(float((slope * step).sum()), rel=3e-2, abs=5e-4)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "asked", [[PRECISION], [PRECISION, RECALL], [RECALL], [GAP]], ids=lambda asked: asked[-1]["type"]
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_descent_keeps_what_is_asked(objective: str, asked: list[dict[str, Any]], binary: bool) -> None:
    """From weights that break it; a precision is no exception."""
    if binary:
        asked = [{**constraint, "classes": [1]} for constraint in asked]
    found = one_descent(classes(binary=binary), spec_of(objective, asked))
    assert found.feasible


@pytest.mark.parametrize("objective", ["zero_one", "worst_class", "worst_group"])
def test_one_descent_sees_samples_that_are_far_off(objective: str) -> None:
    """Starts that are wrong by much end where starts that are nearly right do: within a tenth."""
    near, far = classes(600), classes(600)
    far = Snapshot(
        task=far.task, inputs=far.inputs, targets=far.targets, weight=-4.0 * far.weight, bias=far.bias, group=far.group,
        sample_weight=far.sample_weight,
    )  # fmt: skip
    values = [
        one_descent(snapshot, JobSpec(objective=objective, radius=radius)).best.objective
        for snapshot, radius in ((near, 8.0), (far, 8.0))
    ]
    assert values[1] <= 1.1 * values[0]


def behind_units(activation: str, seed: int = 0) -> Snapshot:
    """A small network whose classes are not what its start says."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(400, 6)).astype(np.float32)
    truth = np.tanh(inputs @ rng.normal(size=(6, 6))) @ rng.normal(size=(6, 3)) * 2 + np.linspace(0, -1.5, 3)
    tail = TailLayer(
        (rng.normal(size=(3, 8)) / np.sqrt(8)).astype(np.float32), np.zeros(3, np.float32), Activation.parse("identity")
    )
    return Snapshot(
        task="classification",
        inputs=inputs,
        targets=(truth + rng.normal(size=truth.shape)).argmax(axis=1),
        weight=(rng.normal(size=(8, 6)) / np.sqrt(6)).astype(np.float32),
        bias=np.zeros(8, dtype=np.float32),
        activation=Activation.parse(activation),
        tail=(tail,),
        group=rng.integers(0, 2, 400),
        sample_weight=(rng.random(400) > 0.05).astype(np.float32),
    )


@pytest.mark.parametrize(
    ("objective", "asked", "activation"), [("worst_group", [], "relu"), ("zero_one", [RECALL], "tanh")]
)
def test_a_hidden_block_ends_lower_with_them(
    objective: str, asked: list[dict[str, Any]], activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rounds, not by the clock; several blocks, as one may end anywhere. Samples of weight 0 count for nothing."""
    spec = spec_of(objective, asked, tail_radius=1.0, limits={"nodes": 1, "time_s": 600})
    blocks = [behind_units(activation, seed) for seed in range(3)]
    found = [solve(block, spec).result for block in blocks]
    monkeypatch.setattr(JointSearch, "_annealing", None)
    before = [solve(block, spec).result for block in blocks]
    assert all(result.feasible for result in (*found, *before))
    values = [sum(result.objective.final for result in results) for results in (found, before)]
    assert values[0] < 0.95 * values[1]
