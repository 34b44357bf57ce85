"""Output layers where a short script was ahead: worst rates, shares, few values a weight, unequal samples."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared.activations import Activation
from shared.constraints import violations
from shared.contracts import JobSpec, Limits, SolveStatus
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control, IncumbentFound
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import Problem, problem_of
from solver_service.milp.core.solution import Solution
from solver_service.milp.final_layer import solve as final_layer
from solver_service.milp.final_layer import under_constraints
from solver_service.milp.final_layer.convex.cutting_planes import Tangents
from solver_service.milp.final_layer.convex.program import ConvexProgram
from solver_service.milp.final_layer.convex.rounded_fits import fit_rounded
from solver_service.milp.final_layer.convex.smoothed import MAXIMUM, smoothed
from solver_service.milp.final_layer.convex.weighted_cells import search_weighted_cells
from solver_service.milp.final_layer.improving import Improver
from solver_service.milp.final_layer.job import Job, why
from solver_service.milp.heuristics.descents.share_descents import STAGES, ShareDescents
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision
from solver_service.milp.heuristics.descents.smoothed_shares import SmoothedShares
from solver_service.milp.heuristics.walks.random_steps import step_at_random
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.network import keeping
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.solve import solve
from solver_service.milp.tiers import solve_by_tiers

FEW_NODES = {"nodes": 2, "time_s": 60}


def _classes(samples: int = 400, width: int = 4, *, weights: bool = False) -> Snapshot:
    """Three classes that overlap, one of them rare, in two groups."""
    rng = np.random.default_rng(8)
    targets = rng.choice(3, samples, p=[0.6, 0.3, 0.1])
    inputs = rng.normal(size=(samples, width)).astype(np.float32)
    inputs[:, 0] += np.array([-1.0, 1.0, 0.3])[targets]
    return Snapshot(
        task="classification",
        inputs=inputs,
        targets=targets,
        weight=(0.3 * rng.normal(size=(3, width))).astype(np.float32),
        bias=np.zeros(3, dtype=np.float32),
        group=rng.integers(0, 2, samples),
        sample_weight=rng.integers(1, 4, samples).astype(np.float32) if weights else None,
    )


def _far_apart() -> tuple[Snapshot, JobSpec]:
    """A hidden block with levels that no weight reaches, and samples that weigh far apart."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(20, 2)).astype(np.float32)
    weights = np.ones(20, dtype=np.float32)
    weights[0] = 1e6
    snapshot = Snapshot(
        task="binary",
        inputs=inputs,
        targets=(inputs[:, 0] > 0).astype(np.int64),
        weight=np.array([[2.0, 0.3], [0.4, -0.2]], dtype=np.float32),
        bias=np.zeros(2, dtype=np.float32),
        activation=Activation.parse("relu"),
        tail=(
            TailLayer(
                np.array([[1, -1]], dtype=np.float32), np.zeros(1, dtype=np.float32), Activation.parse("identity")
            ),
        ),
        sample_weight=weights,
    )
    constraints = [{"type": "levels", "levels": [0.0, 0.5]}]
    return snapshot, JobSpec(
        objective="zero_one", radius=0.1, constraints=constraints, limits=Limits(time_s=60, nodes=3)
    )


@pytest.mark.parametrize("seen", [True, False])
def test_weights_that_break_a_constraint_are_no_solution_of_a_tier(seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no part of a job by tiers finds any that keep all, nothing is told and nothing is called feasible.

    Whether that is `seen` by the box, or a search ends without having found any.
    """
    if not seen:
        monkeypatch.setattr(keeping, "impossible", lambda *_: [])
    snapshot, spec = _far_apart()
    heard: list[IncumbentFound] = []
    solution = solve(snapshot, spec, Control(heard.append))
    assert not solution.result.feasible
    assert not solution.result.improved
    assert heard == solution.result.incumbents == []
    limits = (SolveStatus.NODE_LIMIT, SolveStatus.TIME_LIMIT)
    assert solution.result.status in ((SolveStatus.INFEASIBLE,) if seen else limits)
    np.testing.assert_array_equal(solution.weight, snapshot.weight)


def test_a_later_tier_replaces_weights_that_keep_nothing() -> None:
    """A feasible value counts, even above that of the infeasible weights with which another tier ended."""
    snapshot = replace(_classes(60), sample_weight=np.geomspace(1, 1e7, 60).astype(np.float32))
    spec = JobSpec(
        objective="worst_class",
        radius=2.0,
        constraints=[{"type": "levels", "levels": [-1.0, 0.0, 1.0]}],
        limits=Limits(time_s=60),
    )
    zeros = np.zeros_like(snapshot.weight)
    real = solve(snapshot, spec.model_copy(update={"limits": Limits(time_s=60, nodes=1)}))
    found: list[bool] = []

    def recipe(_: Snapshot, __: JobSpec, ___: Control, ____: Moved | None) -> Solution:
        """Nothing at first, and then weights of a higher value that keep the levels."""
        found.append(bool(found))
        low = real.result.objective.model_copy(update={"final": 0.01, "bound": 0.0})
        result = real.result.model_copy(update={"feasible": found[-1], "objective": low})
        return Solution(result, zeros if found[-1] else snapshot.weight, snapshot.bias)

    solution = solve_by_tiers(snapshot, spec, Control(), None, recipe)
    assert found == [False, True]
    assert solution.result.feasible
    np.testing.assert_array_equal(solution.weight, zeros)
    assert not violations(spec.constraints, snapshot, solution.weight, solution.bias)


def test_without_feasible_weights_there_is_no_gap() -> None:
    """A search that ends by itself with nothing that keeps the constraints has ended at the job's limit."""
    snapshot, floor = _classes(), {"type": "min_accuracy", "value": 0.99}
    ends = {
        why(_job_of(snapshot, JobSpec(objective="ramp", radius=1.0, constraints=asked, limits=limits)))
        for asked, limits in (([], Limits(time_s=9)), ([floor], Limits(time_s=9)), ([floor], Limits(time_s=9, nodes=1)))
    }
    assert ends == {SolveStatus.GAP_REACHED, SolveStatus.TIME_LIMIT, SolveStatus.NODE_LIMIT}


def _descents(problem: Problem) -> tuple[ShareDescents, Incumbents, Budget]:
    control, tally, rng = Control(), Tally.of(problem), np.random.default_rng(0)
    incumbents = Incumbents(problem, control)
    block = SinglePrecision.of(problem)
    walk = Walk(problem, tally, rng)
    return ShareDescents(problem, tally, block, incumbents, walk, rng, True), incumbents, Budget(control, 1e9, 10)


@pytest.mark.parametrize("objective", ["worst_class", "worst_group", "hinge", "ramp", "zero_one", "log_loss"])
@pytest.mark.parametrize(
    "asked", [[], [{"type": "recall_floor", "value": 0.9}, {"type": "group_rate_gap", "value": 0.0}]]
)
def test_slopes_of_smoothed_shares_are_those_of_differences(objective: str, asked: list[dict[str, Any]]) -> None:
    """The slope by the outputs is that of the value, floors, gaps and corrections included."""
    snapshot = _classes(60, weights=True)
    problem = problem_of(snapshot, JobSpec(objective=objective, radius=1.0, constraints=asked))
    block = SinglePrecision.of(problem)
    shares = SmoothedShares.of(problem, Tally.of(problem), block.unit, block.scores).corrected(block.scores, 0.5, 0.05)
    rng = np.random.default_rng(1)
    start = block.scores.astype(np.float64)
    _, slope = shares(block.scores, 0.7, 2.0)
    for _ in range(5):
        step = rng.normal(size=start.shape)
        low, high = (shares((start + far * step).astype(np.float32), 0.7, 2.0)[0] for far in (-1e-2, 1e-2))
        assert (high - low) / 2e-2 == pytest.approx(float((slope * step).sum()), rel=2e-2, abs=2e-4)


@pytest.mark.parametrize(("objective", "most"), [("worst_class", 0.56), ("worst_group", 0.62)])
def test_one_run_of_descents_finds_what_worst_rates_come_down_to(objective: str, most: float) -> None:
    """From one start, without any luck, the largest rate falls far below the start's."""
    problem = problem_of(_classes(), JobSpec(objective=objective, radius=2.0))
    descents, incumbents, budget = _descents(problem)
    for _ in STAGES:
        descents.advance(budget)
    assert incumbents.best.objective <= most * incumbents.start


@pytest.mark.parametrize(
    "constraint", [{"type": "recall_floor", "value": 0.45}, {"type": "group_rate_gap", "value": 0.01}]
)
def test_hinge_under_shares_is_near_to_hinge_without(constraint: dict[str, Any]) -> None:
    """One run of descents keeps what the minimum without it breaks, at a loss that is little higher."""
    snapshot = _classes()
    free = solve(snapshot, JobSpec(objective="hinge", radius=2.0, limits=Limits(**FEW_NODES)))
    spec = JobSpec(objective="hinge", radius=2.0, constraints=[constraint], limits=Limits(**FEW_NODES))
    descents, incumbents, budget = _descents(problem_of(snapshot, spec))
    for _ in STAGES:
        descents.advance(budget)
    assert incumbents.feasible
    assert incumbents.best.objective <= 1.3 * free.result.objective.final


def test_movement_is_part_of_a_descent_on_shares() -> None:
    """A price of movement that outweighs every rate keeps the weights next to where they are."""
    snapshot = _classes()
    spec = JobSpec(objective="worst_class", radius=1.0, constraints=[{"type": "movement_cost", "value": 10.0}])
    descents, incumbents, budget = _descents(problem_of(snapshot, spec))
    for _ in STAGES:
        descents.advance(budget)
    assert np.abs(incumbents.best.weight - snapshot.weight).max() <= 0.02


def _regression(samples: int = 400, width: int = 6) -> Snapshot:
    rng = np.random.default_rng(4)
    inputs = rng.normal(size=(samples, width)).astype(np.float32)
    true = rng.normal(size=(2, width))
    return Snapshot(
        task="regression",
        inputs=inputs,
        targets=(inputs @ true.T + rng.standard_t(3, size=(samples, 2))).astype(np.float32),
        weight=(true + 0.3 * rng.normal(size=true.shape)).astype(np.float32),
        bias=np.zeros(2, dtype=np.float32),
    )


FEW_VALUES = {"type": "levels", "levels": [-1.0, -0.5, 0.0, 0.5, 1.0]}


@pytest.mark.parametrize(
    ("objective", "constraint", "most"),
    [
        ("max_error", FEW_VALUES, 11.7),
        ("max_error", {"type": "max_nonzero", "value": 5}, 10.7),
        ("max_error", {"type": "grid", "value": 0.5}, 10.45),
        ("quantile", FEW_VALUES, 0.476),
        ("quantile", {"type": "max_nonzero", "value": 5}, 0.488),
        ("mae", {"type": "max_nonzero", "value": 5}, 1.343),
    ],
)
def test_rounded_fits_are_a_good_first_answer(objective: str, constraint: dict[str, Any], most: float) -> None:
    """Before any search, the smoothed minimum rounded, refitted and branched on in five nodes comes down so far."""
    limits = Limits(time_s=60, nodes=5)
    job = _job_of(
        _regression(), JobSpec(objective=objective, radius=3.0, quantile=0.2, constraints=[constraint], limits=limits)
    )
    fit_rounded(job)
    assert job.incumbents.best.objective <= most
    assert 0 < job.incumbents.bound <= job.incumbents.best.objective


def test_a_smoothed_maximum_is_below_the_maximum_and_near_to_it() -> None:
    """Its minimum's bound is one of the job, and its value comes as near as its width says."""
    problem = problem_of(_regression(60), JobSpec(objective="max_error", radius=1.0))
    change = np.random.default_rng(0).uniform(-1, 1, problem.radius.shape)
    exact = problem.loss(problem.scores_at(change))
    for share in (0.3, 0.003):
        program = smoothed(problem, problem.cost, change, share)
        assert program is not None
        value, gradient = program.smooth(change)
        assert exact - MAXIMUM * share * exact * np.log(2 * problem.scores.size) - 1e-9 <= value <= exact
        step = 1e-5 * np.random.default_rng(1).normal(size=change.shape)
        ahead = program.smooth(change + step)[0] - program.smooth(change - step)[0]
        assert ahead / 2 == pytest.approx(float((gradient * step).sum()), rel=1e-3)


@pytest.mark.parametrize("seed", [2, 6])
def test_trimming_of_unequal_weights_finds_where_two_errors_are_equal(seed: int) -> None:
    """The best of one weight is where the order of errors changes; no fit to a set of samples is there."""
    rng = np.random.default_rng(seed)
    snapshot = Snapshot(
        task="regression",
        inputs=rng.normal(size=(9, 1)).astype(np.float32),
        targets=(3 * rng.normal(size=(9, 1))).astype(np.float32),
        weight=np.zeros((1, 1), dtype=np.float32),
        sample_weight=rng.integers(1, 5, 9).astype(np.float32),
    )
    spec = JobSpec(objective="trimmed_mse", radius=2.0, trim=0.3, limits=Limits(time_s=60, nodes=5))
    scan = np.linspace(-2, 2, 2001).astype(np.float32).reshape(-1, 1, 1)
    best = min(spec.goal.value(snapshot, weight, None) for weight in scan)
    assert solve(snapshot, spec).result.objective.final <= best


def test_tangents_that_gain_nothing_give_way() -> None:
    """Where rounding spoils what the model says its rounds end by themselves, and random steps find lower values."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 24)
    inputs = rng.normal(size=(24, 3)).astype(np.float32)
    inputs[:, 0] += targets - 0.5
    snapshot = Snapshot(
        task="classification",
        inputs=inputs,
        targets=targets,
        weight=np.zeros((2, 3), dtype=np.float32),
        bias=np.zeros(2, dtype=np.float32),
        group=(np.arange(24) < 15).astype(np.int64),
    )
    gap = [{"type": "group_rate_gap", "value": 0.0}]
    spec = JobSpec(objective="log_loss", radius=3.0, l2=0.01, constraints=gap, limits=Limits(time_s=60, nodes=1000))
    job = _job_of(snapshot, spec)
    least = ConvexProgram(job.problem).minimise(*ConvexProgram(job.problem).box, job.incumbents.whole_change, bool)
    search_weighted_cells(job, least)
    tangents = Tangents(job, ConvexProgram(job.problem), [least.change])
    tangents.run(2)
    before = job.incumbents.best.objective
    assert not tangents.done
    step_at_random(job.problem, job.incumbents, job.budget(), np.random.default_rng(0), 300)
    assert job.incumbents.best.objective < before


def test_bounds_wait_while_nothing_is_feasible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large job that nothing keeps yet spends its time on searches, not on a relaxation."""
    monkeypatch.setattr(under_constraints, "EARLY_S", 0.0)
    snapshot, lines = _classes(1500, 12), list[str]()
    impossible = [{"type": "precision_floor", "value": 0.999}, {"type": "min_accuracy", "value": 0.9}]
    spec = JobSpec(objective="zero_one", radius=1.0, constraints=impossible, limits=Limits(time_s=1.0))
    result = solve(snapshot, spec, Control(on_text=lines.append)).result
    assert not result.feasible
    assert not [line for line in lines if "relaxation" in line or "conflicts" in line]


def _job_of(snapshot: Snapshot, spec: JobSpec) -> Job:
    problem, control = problem_of(snapshot, spec), Control()
    improver = Improver(problem, spec, control, Incumbents(problem, control))
    return final_layer._job(improver, *final_layer._reduced(improver))
