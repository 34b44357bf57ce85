"""Searches where floors and gaps ask for shares of right samples: they keep them, and lose little by it."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from milp_cases import job, tiny
from oracle import optimum

from shared.constraints import violations
from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.final_layer.improving import Improver
from solver_service.milp.final_layer.job import Job
from solver_service.milp.final_layer.neighbourhoods import Neighbourhoods
from solver_service.milp.formulation.compact import NO_CUTS
from solver_service.milp.formulation.constraints.constrained_model import constrained_model
from solver_service.milp.heuristics.programs.priced_sets import PricedSets
from solver_service.milp.heuristics.walks.multipliers import Multipliers
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.presolve.aggregation import not_aggregated
from solver_service.milp.presolve.screening import screen
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.solve import solve

FLOOR = [{"type": "recall_floor", "value": 0.6}]
STEPS = 20
GAP = [{"type": "group_rate_gap", "value": 0.3}]


def drawn(seed: int, objective: str, asked: list[dict[str, object]]) -> tuple[Snapshot, JobSpec]:
    """A tiny job with constraints on shares, and two groups."""
    snapshot, _ = tiny(seed, objective)
    names = ("task", "inputs", "targets", "weight", "bias")
    snapshot = Snapshot(**{name: getattr(snapshot, name) for name in names}, group=np.arange(6) % 2)
    return snapshot, job(objective, radius=0.8, constraints=asked, limits={"nodes": 100})


def job_of(snapshot: Snapshot, spec: JobSpec) -> Job:
    """What a solve works on when its searches begin."""
    problem, control = problem_of(snapshot, spec), Control()
    incumbents = Incumbents(problem, control)
    improver = Improver(problem, spec, control, incumbents)
    screened = screen(requirements_of(problem))
    return Job(problem, spec, control, not_aggregated(problem), screened, incumbents, improver)


def jobs(objective: str, asked: list[dict[str, object]]) -> Iterator[tuple[Job, Snapshot, float]]:
    """Tiny jobs that leave something to decide, with the optima that exhaustive search finds for them."""
    for seed in range(8):
        snapshot, spec = drawn(seed, objective, asked)
        found, best = job_of(snapshot, spec), optimum(snapshot, spec)
        if best is not None and found.screened.requirements.rows:
            yield found, snapshot, best


def factors(right: list[float], *, least: float | None = None, apart: float | None = None) -> np.ndarray:
    """What two cells of ten samples weigh once so many of them were seen to be right.

    There is a floor on the second one, or a gap between them, or the worse of them is the objective.
    """
    found = Multipliers(
        Tally(
            cell=np.repeat([0, 1], 10),
            total=np.full(2, 10.0),
            floors=np.array([[0.0, 1.0]] if least else np.zeros((0, 2))),
            least=np.array([10 * least] if least else []),
            gaps=((np.eye(2), apart),) if apart else (),
            judged=np.zeros((0, 2)) if least or apart else np.eye(2),
            claimed=(),
            precise=np.zeros((0, 2)),
            demanded=np.zeros(0),
        )
    )
    found.learn(np.array(right))
    return found.factors


def test_only_what_falls_short_weighs_more() -> None:
    """A floor raises its own cell's weight while that is short, and never lowers it below its own."""
    first, second = factors([5.0, 4.0], least=0.8)
    assert first == 1.0 < second
    assert np.array_equal(factors([5.0, 4.0], least=0.2), [1.0, 1.0])


@pytest.mark.parametrize("asked", [{"apart": 0.1}, {}], ids=["gap", "worst rate"])
def test_one_side_weighs_more_and_the_other_one_less(asked: dict[str, float]) -> None:
    """The better group may have to get worse."""
    first, second = factors([9.0, 3.0], **asked)
    assert first < 1.0 < second


@pytest.mark.parametrize(
    ("objective", "asked", "above"),
    [("zero_one", FLOOR, 1.0), ("zero_one", GAP, 1.0), ("ramp", FLOOR, 1.2)],
    ids=["count-floor", "count-gap", "ramp-floor"],
)
def test_kept_sets_at_prices_come_close_to_the_optimum(
    objective: str, asked: list[dict[str, object]], above: float
) -> None:
    """Counts of tiny jobs are solved, ramps nearly so, and what is offered keeps the constraints."""
    reached, least = [], []
    for found, snapshot, best in jobs(objective, asked):
        budget = Budget(found.control, math.inf, 1)
        search = PricedSets(found.problem, found.screened, found.incumbents, budget, np.random.default_rng(0))
        for _ in range(STEPS):
            search.advance(budget)
        told = found.incumbents.best
        assert not violations(found.spec.constraints, snapshot, told.weight, told.bias)
        reached.append(told.objective)
        least.append(best)
    assert len(reached) > 5
    assert sum(reached) <= above * sum(least) + 1e-3


def test_branching_around_the_best_ends_at_the_optimum() -> None:
    """With every decision free in the end, a count has nothing left to gain."""
    tried = 0
    for found, _, best in jobs("zero_one", FLOOR):
        found.improver.run(Budget(found.control, math.inf, 3), enough=True)
        if not found.incumbents.feasible:
            continue
        built = constrained_model(found.problem, found.screened, NO_CUTS, found.problem.constraints)
        search = Neighbourhoods(found, built, np.random.default_rng(0))
        budget = Budget(found.control, math.inf, 1)
        assert any(not search.advance(budget) for _ in range(50))
        assert found.incumbents.best.objective <= best + 1e-6
        tried += 1
    assert tried > 5


def test_branching_around_nothing_ends_at_once() -> None:
    """Without weights that keep the constraints there is nothing to go on from."""
    found = job_of(*drawn(0, "zero_one", [{"type": "recall_floor", "value": 1.0}]))
    assert not found.incumbents.feasible
    built = constrained_model(found.problem, found.screened, NO_CUTS, found.problem.constraints)
    search = Neighbourhoods(found, built, np.random.default_rng(0))
    assert not search.advance(Budget(found.control, math.inf, 1))


def test_counted_nodes_make_a_run_under_floors_reproducible() -> None:
    """Searches at prices take turns by rounds, not by the clock."""
    snapshot, spec = drawn(3, "zero_one", FLOOR)
    first, again = (solve(snapshot, spec) for _ in range(2))
    assert np.array_equal(first.weight, again.weight)
    assert np.array_equal(first.bias, again.bias)
