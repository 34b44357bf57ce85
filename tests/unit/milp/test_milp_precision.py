"""Floors of precisions: line searches know them, descents keep them without giving up the class."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from shared.constraints import violations
from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Problem, problem_of
from solver_service.milp.heuristics.descents.annealed import AnnealedDescents
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision
from solver_service.milp.heuristics.walks.line import stretches
from solver_service.milp.heuristics.walks.margin_lines import MarginLines
from solver_service.milp.heuristics.walks.multipliers import Multipliers
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

FLOORS = [
    {"type": "precision_floor", "value": 0.99, "classes": [1]},
    {"type": "precision_floor", "value": 0.97, "classes": [8]},
]


def digits(task: str = "classification", samples: int = 1797) -> Snapshot:
    """Digits, and weights between their means and nothing: a fifth is wrong, and both floors are broken."""
    inputs, targets = load_digits(return_X_y=True)
    inputs, targets = (inputs[:samples] / 16).astype(np.float32), targets[:samples].astype(np.int64)
    means = np.array([inputs[targets == number].mean(axis=0) for number in range(10)])
    weight, bias = 0.5 * means, -0.25 * (means**2).sum(axis=1)
    if task == "binary":
        targets, weight, bias = np.isin(targets, (1, 8)).astype(np.int64), weight[8:9] - weight[2:3], np.zeros(1)
    return Snapshot(task, inputs, targets, weight.astype(np.float32), bias.astype(np.float32))


def problem(snapshot: Snapshot, objective: str, floors: list[dict[str, Any]]) -> Problem:
    return problem_of(snapshot, JobSpec(objective=objective, radius=1.0, constraints=floors))


def floors_of(task: str) -> list[dict[str, Any]]:
    return FLOORS if task == "classification" else [{"type": "precision_floor", "value": 0.8, "classes": [1]}]


@pytest.mark.parametrize("task", ["classification", "binary"])
def test_lines_count_what_is_called_a_class(task: str) -> None:
    """At the middle of each stretch of a line they count the same as scores do that are computed there."""
    found = problem(digits(task, 300), "zero_one", floors_of(task))
    tally, rng = Tally.of(found), np.random.default_rng(0)
    lines = MarginLines(found, tally)
    for unit in rng.integers(found.units, size=5).tolist():
        moved = found.inputs @ rng.normal(size=found.inputs.shape[1])
        line = stretches(lines.of_unit(found.scores, unit, moved), tally.counts, -1.0, 1.0)
        for place in np.flatnonzero(line.width > 1e-9)[:: max(1, line.width.size // 10)]:
            scores = found.scores.copy()
            scores[:, unit] += line.middle[place] * moved
            np.testing.assert_allclose(line.right[place], lines.counted(scores, lines.guard), atol=1e-9)


@pytest.mark.parametrize("task", ["classification", "binary"])
@pytest.mark.parametrize("objective", ["zero_one", "ramp", "hinge", "log_loss"])
def test_what_a_walk_mends_is_kept(objective: str, task: str) -> None:
    """Its word that nothing is broken is that of the one definition, on float32 weights."""
    snapshot, floors = digits(task), floors_of(task)
    found = problem(snapshot, objective, floors)
    incumbents = Incumbents(found, Control())
    walk = Walk(found, Tally.of(found), np.random.default_rng(0))
    walk.cheapen(1e6)  # constraints first, whatever it costs
    assert walk.rank.broken > 0
    assert walk.mend(100, bool)
    incumbents.offer_whole(walk.change)
    assert incumbents.feasible
    best = incumbents.best
    assert not violations(found.constraints, snapshot, best.weight, best.bias)


@pytest.mark.parametrize("objective", ["zero_one", "hinge", "log_loss"])
def test_descents_keep_a_precision_without_giving_up_the_class(objective: str) -> None:
    """Nothing called a class is a precision of 1, at the price of all its samples: that is no place to end in."""
    snapshot = digits()
    found = problem(snapshot, objective, FLOORS)
    tally, control = Tally.of(found), Control()
    incumbents, rng = Incumbents(found, control), np.random.default_rng(0)
    walk, block = Walk(found, tally, rng), SinglePrecision.of(found)
    descents = AnnealedDescents(found, tally, block, incumbents, walk, rng, True)
    descents.advance(Budget(control, 1e9, 10))
    assert incumbents.feasible
    called = (found.scores_at(incumbents.whole_change)).argmax(axis=1)
    for number in (1, 8):
        assert (called[snapshot.targets == number] == number).mean() > 0.9


def test_multipliers_weigh_up_what_is_not_of_the_class() -> None:
    """Where too much is called a class, all samples of others count more, and its own do not."""
    found = problem(digits(), "log_loss", FLOORS[1:])
    tally = Tally.of(found)
    multipliers, lines = Multipliers(tally), MarginLines(found, tally)
    multipliers.learn(lines.counted(found.scores, lines.guard))
    own = tally.precise[0] > 0
    assert (multipliers.factors[own] == 1).all()
    assert (multipliers.factors[~own] > 1).all()
