"""The solver against exhaustive search: every objective, every optional tensor, every way to solve."""

import pytest
from milp_cases import assert_honest, job, optimum, tiny

from shared.contracts import SolveStatus
from solver_service.milp.solve import solve

OBJECTIVES = ("zero_one", "ramp", "hinge", "mae", "mse", "max_error", "outliers")
SHAPES = (
    {},
    {"bias": False},
    {"offset": True},
    {"weighted": True},
    {"own_radii": True},
    {"bias": False, "offset": True, "weighted": True, "own_radii": True},
    {"h": 2, "d": 1},
)


def _assert_optimal(snapshot, spec):
    solution = solve(snapshot, spec)
    true = optimum(snapshot, spec)
    report = solution.result.objective
    assert_honest(snapshot, spec, solution)
    assert solution.result.status is SolveStatus.OPTIMAL
    assert report.final == pytest.approx(true, abs=2e-5)
    assert report.bound <= true + 1e-7


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_finds_and_proves_the_optimum_of_tiny_problems(objective, shape):
    """The value is the exhaustive one, the bound is never above it, and the weights keep every promise."""
    _assert_optimal(*tiny(len(str(shape)), objective, **shape))


@pytest.mark.parametrize("seed", range(100, 110))
@pytest.mark.parametrize("objective", ["zero_one", "ramp", "outliers"])
def test_branching_agrees_with_enumeration(objective, seed):
    """More samples in a wider box, where the choice of samples matters."""
    snapshot, _ = tiny(seed, objective, n=7)
    _assert_optimal(snapshot, job(objective, radius=0.6))


@pytest.mark.parametrize("solver", [{"formulation": "reference"}, {"backend": "highs"}], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_the_other_formulation_and_the_other_solver_agree(seed, solver):
    """Reference model and HiGHS reach the optimum of the compact model under SCIP."""
    snapshot, _ = tiny(200 + seed, "zero_one", n=9, d=3)
    spec = job("zero_one", solver=solver)
    found, compact = solve(snapshot, spec), solve(snapshot, job("zero_one"))
    assert_honest(snapshot, spec, found)
    assert found.result.objective.final == compact.result.objective.final
    assert found.result.status is compact.result.status is SolveStatus.OPTIMAL


def test_highs_solves_ramp_too():
    """The second opinion covers the compact model's other shape."""
    snapshot, _ = tiny(3, "ramp", n=7)
    spec = job("ramp", solver={"backend": "highs"})
    found = solve(snapshot, spec)
    assert_honest(snapshot, spec, found)
    assert found.result.objective.final == pytest.approx(optimum(snapshot, spec), abs=2e-5)


@pytest.mark.parametrize("margin", [0.05, 3.0])
def test_the_margin_is_part_of_the_objective(margin):
    """A narrow and a wide ramp have their own optima."""
    snapshot, _ = tiny(12, "ramp")
    _assert_optimal(snapshot, job("ramp", margin=margin))


@pytest.mark.parametrize("seed", range(3))
def test_an_optimum_of_nothing_is_proven_though_rounding_leaves_a_speck(seed):
    """A hinge that can vanish does so up to float32, and that counts as optimal."""
    snapshot, _ = tiny(400 + seed, "hinge", n=3, d=3)
    solution = solve(snapshot, job("hinge", radius=5.0))
    assert solution.result.status is SolveStatus.OPTIMAL
    assert solution.result.objective.final == pytest.approx(0, abs=1e-5)
