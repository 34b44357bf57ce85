"""A running solve and those who watch it: stopping, incumbents, starting again from one."""

import threading

import numpy as np
import pytest
from milp_cases import assert_honest, job, tiny

from shared.contracts import SolveStatus
from solver_service.milp.core.control import Control
from solver_service.milp.core.moved import Moved
from solver_service.milp.final_layer import solve as solve_module
from solver_service.milp.final_layer.improving import Improver
from solver_service.milp.solve import solve


def _hard(objective="zero_one"):
    """A problem that no solver finishes within the tests' limits."""
    return tiny(0, objective, n=300, d=12, h=5)[0]


@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_a_stop_in_mid_search_keeps_the_incumbent(backend, monkeypatch):
    """Another thread stops the solver; the best incumbent so far is the result, and its status says why."""
    monkeypatch.setattr(solve_module, "HEURISTIC_SHARE", 0.005)
    snapshot, seen = _hard(), []
    control = Control(seen.append)
    spec = job("zero_one", time_s=60, solver={"backend": backend})
    stopper = threading.Timer(2.5, control.stop)
    stopper.start()
    solution = solve(snapshot, spec, control)
    stopper.join()
    assert_honest(snapshot, spec, solution)
    assert solution.result.status is SolveStatus.INTERRUPTED
    assert solution.result.improved
    assert control.elapsed < 10
    assert solution.result.objective.final == min(found.objective for found in seen)


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "hinge"])
def test_a_stop_before_the_start_returns_the_snapshot(objective):
    """Nothing is searched, and nothing is lost."""
    snapshot, control = _hard(objective), Control()
    control.stop()
    spec = job(objective)
    solution = solve(snapshot, spec, control)
    assert_honest(snapshot, spec, solution)
    assert solution.result.status is SolveStatus.INTERRUPTED
    assert not solution.result.improved
    assert solution.result.changed_weights == 0


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "outliers"])
def test_incumbents_are_reported_as_they_improve(objective):
    """Each report is recomputed, better than the one before, and the last one is the result."""
    snapshot, seen = tiny(3, objective, n=60, d=4)[0], []
    spec = job(objective, time_s=2)
    solution = solve(snapshot, spec, Control(seen.append))
    assert_honest(snapshot, spec, solution)
    values = [found.objective for found in seen]
    assert values == sorted(set(values), reverse=True)
    assert values == [incumbent.objective for incumbent in solution.result.incumbents]
    assert values[-1] == solution.result.objective.final
    assert all(found.objective == spec.goal.value(snapshot, found.moved.weight, found.moved.bias) for found in seen)


def test_a_better_start_is_kept():
    """A lost attempt's incumbent is the floor of the next attempt, even without time to search."""
    snapshot = _hard()
    first = solve(snapshot, job("zero_one", time_s=2))
    again = solve(snapshot, job("zero_one", time_s=0.01), start=first.moved)
    assert first.result.improved
    assert again.result.objective.final <= first.result.objective.final
    assert again.result.objective.start == first.result.objective.start


def test_a_start_outside_the_box_is_clipped():
    """Whatever comes in, what goes out is inside the region."""
    snapshot, spec = tiny(5, "zero_one")
    far = Moved(snapshot.weight + np.float32(9), snapshot.bias - np.float32(9))
    assert_honest(snapshot, spec, solve(snapshot, spec, start=far))


@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_an_error_in_a_callback_comes_out_of_the_solve(backend, monkeypatch):
    """It passes neither solver's C code, and is not swallowed."""
    monkeypatch.setattr(Improver, "run", lambda *_, **__: None)

    def fail(_):
        raise RuntimeError("the store is gone")

    snapshot, _ = tiny(0, "zero_one", n=40, d=3)
    with pytest.raises(RuntimeError, match="the store is gone"):
        solve(snapshot, job("zero_one", solver={"backend": backend}), Control(fail))


def test_a_node_limit_makes_a_run_repeatable():
    """Same snapshot, seed and node limit: the same weights."""
    snapshot = tiny(8, "zero_one", n=60, d=3)[0]
    spec = job("zero_one", time_s=60, limits={"nodes": 5}, solver={"seed": 7})
    first, second = solve(snapshot, spec), solve(snapshot, spec)
    assert (first.weight == second.weight).all()
    assert first.result.objective == second.result.objective


def test_a_gap_that_is_good_enough_ends_the_solve():
    """`limits.gap` is reached, and the status says so."""
    snapshot = tiny(8, "ramp", n=60, d=3)[0]
    solution = solve(snapshot, job("ramp", time_s=30, limits={"gap": 0.9}))
    assert solution.result.status in (SolveStatus.GAP_REACHED, SolveStatus.OPTIMAL)
    assert solution.result.objective.gap <= 0.9


def test_a_model_beyond_the_memory_limit_is_left_to_the_heuristics():
    """Nothing too large is built; the result is honest about why it ended."""
    snapshot = tiny(0, "zero_one", n=800, d=40, h=5)[0]
    solution = solve(snapshot, job("zero_one", time_s=1.5, limits={"memory_mb": 50}))
    assert solution.result.status is SolveStatus.MEMORY_LIMIT
    assert solution.result.improved


@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_a_node_limit_is_named_as_the_end(backend, monkeypatch):
    """Both solvers stop at the limit, and the status says so."""
    monkeypatch.setattr(Improver, "run", lambda *_, **__: None)
    snapshot = _hard()
    spec = job("zero_one", time_s=300, limits={"nodes": 1}, solver={"backend": backend})
    solution = solve(snapshot, spec)
    assert_honest(snapshot, spec, solution)
    assert solution.result.status is SolveStatus.NODE_LIMIT
