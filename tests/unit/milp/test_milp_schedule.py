"""Who gets the time of a solve, and that the benchmark's peers solve the same problem as we do."""

import numpy as np
import pytest
from milp_cases import job, optimum, tiny

from benchmarks.peers import Trace, run_highs, run_scip, textbook_model
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.heuristics.programs.kept_sets import improve
from solver_service.milp.presolve.screening import screen
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.solve import solve


class Clock(Control):
    """A clock that moves by a second whenever somebody looks."""

    def __init__(self):
        super().__init__()
        self.looks = 0

    @property
    def elapsed(self):
        self.looks += 1
        return float(self.looks)


def _improved(objective, *, patience, until=1e6):
    snapshot, _ = tiny(7, objective, n=12, d=3)
    problem = problem_of(snapshot, job(objective, radius=0.6))
    control = Clock()
    incumbents = Incumbents(problem, control)
    budget = Budget(control, until, 10**9, patience)
    improve(problem, screen(requirements_of(problem)), incumbents, budget, 0)
    return control, incumbents, problem


@pytest.mark.parametrize("objective", ["zero_one", "ramp"])
def test_heuristics_end_when_their_patience_does(objective):
    """A million seconds are left, and a search that finds nothing more ends all the same."""
    control, incumbents, _ = _improved(objective, patience=50.0)
    assert incumbents.best.objective < incumbents.start
    assert control.looks < 1e6


def test_a_resumed_search_never_loses_what_was_found():
    """Going on from an incumbent keeps it or betters it."""
    control, incumbents, problem = _improved("ramp", patience=50.0)
    before = incumbents.best.objective
    budget = Budget(control, control.elapsed + 1000, 10**9)
    improve(problem, screen(requirements_of(problem)), incumbents, budget, 0, resumed=True)
    assert incumbents.best.objective <= before


@pytest.mark.parametrize("objective", ["zero_one", "ramp"])
def test_a_node_limit_makes_two_runs_alike(objective):
    """By rounds and nodes instead of the clock, the same seed gives the same weights."""
    snapshot, _ = tiny(21, objective, n=12, d=3)
    spec = job(objective, radius=0.6, limits={"nodes": 5}, solver={"seed": 3})
    first, second = solve(snapshot, spec), solve(snapshot, spec)
    assert np.array_equal(first.weight, second.weight)


class Slow(Control):
    """The clock of a machine that stands still for a while now and then."""

    def __init__(self):
        super().__init__()
        self.rng, self.late = np.random.default_rng(0), 0.0

    @property
    def elapsed(self):
        self.late += float(self.rng.random() < 0.05) * self.rng.uniform(0.0, 0.3)
        return super().elapsed + self.late


@pytest.mark.parametrize("constraints", [[], [{"type": "min_accuracy", "value": 0.6}]], ids=["free", "asked"])
@pytest.mark.parametrize("objective", ["zero_one", "ramp", "hinge", "worst_class"])
def test_a_slow_machine_finds_the_same_under_a_node_limit(objective, constraints):
    """However long each piece of work takes, as long as the time limit is far."""
    snapshot, _ = tiny(21, "ramp", n=12, d=3)
    limits = {"nodes": 5, "time_s": 600}
    spec = job(objective, radius=0.6, limits=limits, solver={"seed": 3}, constraints=constraints)
    swift, slow = solve(snapshot, spec), solve(snapshot, spec, Slow())
    assert swift.result.objective == slow.result.objective
    assert np.array_equal(swift.weight, slow.weight)


@pytest.mark.parametrize("run", [run_scip, run_highs], ids=["scip", "highs"])
@pytest.mark.parametrize("objective", ["zero_one", "ramp", "mae"])
def test_a_peer_solves_the_same_problem(objective, run):
    """The textbook model has the true optimum, so the comparison is fair."""
    snapshot, spec = tiny(31, objective)
    model = textbook_model(problem_of(snapshot, spec))
    trace = Trace(0.0, model.change_columns)
    run(model, trace, time_s=trace.now + 20.0, seed=0)
    assert trace.proven
    assert min(claimed for _, _, claimed in trace.solutions) == pytest.approx(optimum(snapshot, spec), abs=2e-5)
