"""A convex objective in place of a count: what brings weights near where counts see nothing."""

import numpy as np
import pytest

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Problem, problem_of
from solver_service.milp.final_layer.improving import Improver
from solver_service.milp.heuristics.descents.annealed import BATCH, AnnealedDescents
from solver_service.milp.heuristics.descents.annealed_counts import AnnealedCounts
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision
from solver_service.milp.heuristics.descents.stand_in_descents import StandInDescents
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.solve import solve


def words(task: str, samples: int = 600, width: int = 400) -> Snapshot:
    """Counts of words of three kinds of texts, and weights of 0: wide, sparse, and separable."""
    rng = np.random.default_rng(0)
    kinds, targets = rng.dirichlet(np.full(width, 0.05), size=3), rng.integers(0, 3, samples)
    inputs = np.stack([rng.multinomial(60, 0.5 * kinds[kind] + 0.5 / width) for kind in targets]).astype(np.float32)
    if task == "binary":
        targets = (targets == 1).astype(np.int64)
    elif task == "multilabel":
        targets = np.eye(3, dtype=np.int64)[targets]
    units = 1 if task == "binary" else 3
    return Snapshot(task, inputs, targets, np.zeros((units, width), np.float32), np.zeros(units, np.float32))


@pytest.mark.parametrize("objective", ["zero_one", "ramp"])
@pytest.mark.parametrize("task", ["classification", "binary", "multilabel"])
def test_descents_on_the_stand_in_get_everything_right(objective: str, task: str) -> None:
    """Where classes can be told apart it leads there from weights of 0, and ends once it gains nothing more."""
    problem, control = problem_of(words(task), JobSpec(objective=objective, radius=1.0)), Control()
    incumbents = Incumbents(problem, control)
    incumbents.offer_whole(np.zeros_like(problem.radius))
    block, rng = SinglePrecision.of(problem), np.random.default_rng(0)
    search = StandInDescents(problem, block, incumbents, None, rng, True)
    budget = Budget(control, 1e9, 10)
    while search.advance(budget):
        pass
    assert incumbents.best.objective <= 0.001 * problem.loss(problem.scores)


def test_a_separable_count_is_solved_by_its_stand_in() -> None:
    """Of more columns than samples any labels can be had: the first program finds them, and that is proven."""
    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(150, 200)).astype(np.float32), rng.integers(0, 4, 150)
    snapshot = Snapshot("classification", inputs, targets, np.zeros((4, 200), np.float32), np.zeros(4, np.float32))
    for objective in ("zero_one", "ramp", "worst_class"):
        spec = JobSpec(objective=objective, radius=10.0, limits={"time_s": 20.0})
        improver, found = improver_of(snapshot, spec)
        improver.stand_in(Budget(improver.control, 1e9, 10))
        assert found.best.objective == 0
        assert solve(snapshot, spec).result.status.value == "optimal"


def improver_of(snapshot: Snapshot, spec: JobSpec) -> tuple[Improver, Incumbents]:
    problem, control = problem_of(snapshot, spec), Control()
    incumbents = Incumbents(problem, control)
    return Improver(problem, spec, control, incumbents), incumbents


def outliers() -> Problem:
    """Values that a half of the samples follows, and a half does not."""
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(6000, 5)).astype(np.float32)
    values = inputs @ np.ones(5) + np.where(rng.random(6000) < 0.5, 0.0, 10 * rng.normal(size=6000))
    snapshot = Snapshot(
        "regression", inputs, values[:, None].astype(np.float32), np.zeros((1, 5), np.float32), np.zeros(1, np.float32)
    )
    return problem_of(snapshot, JobSpec(objective="outliers", radius=3.0, tolerance=0.5))


def test_batches_of_a_descent_follow_what_all_samples_do() -> None:
    """Of many samples each step takes some, and one descent still ends where the half is met."""
    problem, control = outliers(), Control()
    incumbents, rng = Incumbents(problem, control), np.random.default_rng(0)
    tally = Tally.of(problem)
    descents = AnnealedDescents(
        problem, tally, SinglePrecision.of(problem), incumbents, Walk(problem, tally, rng), rng, True
    )
    assert descents._batch == BATCH
    descents.advance(Budget(control, 1e9, 10))
    assert incumbents.best.objective < 0.52 * len(problem.scores)


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "log_loss"])
def test_slopes_of_batches_add_up_to_those_of_all_samples(objective: str) -> None:
    """Equal parts of samples of equal weight have, in the mean, the value and slopes of the whole."""
    problem = problem_of(words("classification"), JobSpec(objective=objective, radius=1.0))
    block, rng = SinglePrecision.of(problem), np.random.default_rng(3)
    counts = AnnealedCounts.of(problem, Tally.of(problem), block.unit)
    outputs = rng.normal(size=(600, 3)).astype(np.float32)
    value, slope, _ = counts(outputs, 0.5, np.zeros(0), 1.0)
    parts = rng.permutation(600).reshape(6, 100)
    found = [counts.part(rows)(outputs[rows], 0.5, np.zeros(0), 1.0) for rows in parts]
    assert np.mean([one[0] for one in found]) == pytest.approx(value, rel=1e-4)
    for rows, (_, of_part, _) in zip(parts, found, strict=True):
        np.testing.assert_allclose(of_part / 6, slope[rows], atol=1e-6)


def test_all_samples_are_taken_where_a_batch_would_hold_none_of_a_group() -> None:
    """Shares of a rare group cannot be told from a few hundred samples."""
    rng = np.random.default_rng(4)
    inputs, targets = rng.normal(size=(6000, 4)).astype(np.float32), rng.integers(0, 2, 6000)
    group = (np.arange(6000) < 30).astype(np.int64)
    snapshot = Snapshot("binary", inputs, targets, np.zeros((1, 4), np.float32), np.zeros(1, np.float32), group=group)
    gap = {"type": "group_rate_gap", "value": 0.05}
    problem = problem_of(snapshot, JobSpec(objective="zero_one", radius=1.0, constraints=[gap]))
    tally, rng = Tally.of(problem), np.random.default_rng(0)
    walk, block = Walk(problem, tally, rng), SinglePrecision.of(problem)
    descents = AnnealedDescents(problem, tally, block, Incumbents(problem, Control()), walk, rng, True)
    assert descents._batch is None


def test_a_walk_moves_whole_groups_by_their_own_columns() -> None:
    """Columns that are the same within each group are drawn beside biases where a gap is asked for."""
    rng = np.random.default_rng(5)
    group = rng.integers(0, 3, 300)
    inputs = np.column_stack([rng.normal(size=300), group == 1, group == 2, np.ones(300)]).astype(np.float32)
    targets = (inputs[:, 0] + group > 1).astype(np.int64)
    snapshot = Snapshot("binary", inputs, targets, np.ones((1, 4), np.float32), np.zeros(1, np.float32), group=group)
    gap = {"type": "group_rate_gap", "value": 0.02, "classes": [1]}
    problem = problem_of(snapshot, JobSpec(objective="zero_one", radius=5.0, constraints=[gap]))
    walk = Walk(problem, Tally.of(problem), np.random.default_rng(0))
    assert walk._levels is not None
    assert walk._levels.tolist() == [1, 2, 4]
