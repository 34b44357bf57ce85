"""Tiny jobs over all tasks, objectives and constraints against exhaustive search, and what blocks do not take."""

from dataclasses import replace

import numpy as np
import pytest
from drawn_jobs import wide_instance
from exactness import by_search, compare
from milp_cases import job, tiny

from shared.activations import Activation
from shared.contracts import SolveStatus
from shared.snapshot import Snapshot
from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.core.solution import TOLERANCE
from solver_service.milp.solve import solve


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_jobs_of_all_kinds_agree_with_exhaustive_search(first):
    """100 of the instances of `python benchmarks/exactness.py --wide --seed 2`."""
    wrong = {}
    for number in range(first, first + 20):
        snapshot, spec = wide_instance(2, number)
        verdict = compare(snapshot, spec)
        if verdict.wrong or not (verdict.proven or by_search(spec)):
            wrong[number] = verdict
    assert wrong == {}


def _labelled(task, seed=0, n=40):
    rng = np.random.default_rng(seed)
    outputs = 1 if task == "binary" else 3
    inputs = rng.normal(size=(n, 2)).astype(np.float32)
    wanted = (inputs @ rng.normal(size=(2, outputs)) + rng.normal(size=(n, outputs)) > 0).astype(np.int64)
    return Snapshot(
        task=task,
        inputs=inputs,
        targets=wanted[:, 0] if task == "binary" else wanted,
        weight=np.zeros((outputs, 2), np.float32),
        bias=np.zeros(outputs, np.float32),
    )


@pytest.mark.parametrize("objective", ["zero_one", "hinge", "log_loss"])
def test_labels_are_solved_one_by_one(objective):
    """Independent logits share nothing: the value is the sum (log_loss: the mean) of those of single labels."""
    snapshot = _labelled("multilabel")
    values = []
    for label in range(3):
        alone = replace(
            snapshot,
            task="binary",
            targets=snapshot.targets[:, label],
            weight=snapshot.weight[[label]],
            bias=snapshot.bias[[label]],
        )
        values.append(solve(alone, job(objective)).result.objective.final)
    together = solve(snapshot, job(objective)).result
    wanted = np.mean(values) if objective == "log_loss" else np.sum(values)
    assert together.objective.final == pytest.approx(wanted, rel=1e-5)
    assert together.status is SolveStatus.OPTIMAL


def test_targets_in_a_column_are_the_same_job():
    """A binary snapshot may send [N] or [N, 1]."""
    flat = _labelled("binary")
    column = replace(flat, targets=flat.targets[:, None])
    constraints = [{"type": "recall_floor", "value": 0.5}, {"type": "precision_floor", "value": 0.5}]
    found = [solve(one, job("zero_one", constraints=constraints)).result.objective.final for one in (flat, column)]
    assert found[0] == found[1]


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "hinge", "quantile"])
@pytest.mark.parametrize("seed", [1, 2])
def test_rows_say_what_the_objective_says(objective, seed):
    """The losses of the requirements at any change are the recomputed value."""
    if objective == "quantile":
        snapshot, spec = tiny(seed, "mae")
        spec = spec.model_copy(update={"objective": "quantile", "quantile": 0.2})
    else:
        snapshot, spec = _labelled("multilabel", seed), job(objective)
    problem = problem_of(snapshot, spec)
    requirements = requirements_of(problem)
    change = np.random.default_rng(seed).uniform(-1, 1, problem.radius.shape)
    losses = requirements.losses(requirements.shortfalls(requirements.values(problem, change)))
    step = problem.radius * change
    value = spec.goal.value(
        snapshot,
        (snapshot.weight + step[:, :-1]).astype(np.float32),
        (snapshot.bias + step[:, -1]).astype(np.float32),
    )
    assert losses.sum() == pytest.approx(value, abs=1e-5)


def test_the_mean_rate_bounds_the_worst_one():
    """What screening gives up is counted by the mean over cells, which no worst rate is below."""
    snapshot, _ = tiny(4, "zero_one", n=6)
    problem = problem_of(snapshot, job("worst_class"))
    everything_wrong = problem.cost.sum()
    assert everything_wrong == pytest.approx(1.0)
    result = solve(snapshot, job("worst_class")).result.objective
    assert result.bound <= result.final + TOLERANCE


@pytest.mark.parametrize("objective", ["log_loss", "worst_class"])
def test_hidden_blocks_take_the_new_objectives(objective):
    """They are searched without a model, and a note says so."""
    snapshot, _ = tiny(0, "zero_one", n=30)
    hidden = replace(snapshot, activation=Activation.parse("relu"))
    result = solve(hidden, job(objective, radius=1.0, time_s=1.0)).result
    assert result.objective.final <= result.objective.start
    assert result.objective.bound == 0.0
    assert any("no linear model" in note for note in result.notes)


def test_no_level_within_reach_is_told_by_name():
    """The weight is named; nothing is searched."""
    snapshot, _ = tiny(0, "zero_one")
    result = solve(snapshot, job("zero_one", radius=0.1, constraints=[{"type": "levels", "levels": [50.0]}])).result
    assert result.status is SolveStatus.INFEASIBLE
    assert "none of its levels is within reach of weight [0, 0]" in result.notes[0]


def test_zeros_need_a_level_of_zero():
    """max_nonzero and levels clash where 0 is none of these."""
    snapshot, _ = tiny(0, "mse", d=1)
    asked = [{"type": "levels", "levels": [0.25, -0.25]}, {"type": "max_nonzero", "value": 0}]
    result = solve(snapshot, job("mse", radius=2, constraints=asked)).result
    assert result.status is SolveStatus.INFEASIBLE
