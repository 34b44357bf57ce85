"""The models as plain arrays: a change extends to a feasible point of its cost, and cuts cut nothing off."""

import numpy as np
import pytest
from milp_cases import job, tiny

from shared.snapshot import Snapshot
from solver_service.milp.bounds.lagrangian import lagrangian_bound
from solver_service.milp.bounds.relaxation import relax
from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.formulation.compact import columns_of, compact_model, complete, cuts_model
from solver_service.milp.formulation.conflicts import pair_cuts
from solver_service.milp.formulation.reference import complete_reference, reference_model
from solver_service.milp.presolve.screening import screen

OBJECTIVES = ("zero_one", "ramp", "hinge", "mae", "max_error", "outliers")


def _case(objective, seed=0, radius=0.3, **shape):
    snapshot, spec = tiny(seed, objective, n=15, **shape)
    spec = spec.model_copy(update={"radius": radius})
    problem = problem_of(snapshot, spec)
    return problem, requirements_of(problem)


def _points(problem, count=50):
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, (count, *problem.radius.shape))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(3))
def test_every_change_extends_to_a_feasible_point_of_its_cost(objective, seed):
    """Rows hold, bounds hold, and the model's objective is the objective."""
    problem, whole = _case(objective, seed)
    screened = screen(whole)
    left = screened.requirements
    cuts = pair_cuts(problem, left)
    model = compact_model(problem, left, constant=screened.cost, cuts=cuts)
    for change in _points(problem):
        point = complete(left, columns_of(problem, left), change, left.values(problem, change))
        assert (model.matrix @ point >= model.row_lower - 1e-9).all()
        assert (point >= model.lower).all()
        assert (point <= model.upper + 1e-12).all()
        cost = whole.losses(whole.shortfalls(whole.values(problem, change))).sum()
        assert model.objective @ point + model.constant == pytest.approx(cost, abs=1e-9)


def test_the_reference_model_counts_the_same_errors():
    """Its indicators and counting rows hold for every change, and its objective is the number of errors."""
    problem, requirements = _case("zero_one")
    model = reference_model(problem, requirements)
    for change in _points(problem):
        values = requirements.values(problem, change)
        point = complete_reference(requirements, change, values)
        active = (model.indicator < 0) | (point[model.indicator] == 1)
        found = model.matrix @ point
        assert (found >= model.row_lower - 1e-9)[active].all()
        assert (found <= model.row_upper + 1e-9)[active].all()
        errors = requirements.losses(requirements.shortfalls(values)).sum()
        assert model.objective @ point + model.constant == pytest.approx(errors)


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "outliers"])
def test_conflict_cuts_cut_nothing_off(objective):
    """The cuts' own bound stays below every point's cost."""
    problem, requirements = _case(objective, 2, radius=0.05, h=2, d=1)
    screened = screen(requirements).requirements
    bound = relax(cuts_model(screened, pair_cuts(problem, screened)), lambda: False).bound
    costs = [
        screened.losses(screened.shortfalls(screened.values(problem, change))).sum() for change in _points(problem, 300)
    ]
    assert 0 <= bound <= min(costs) + 1e-9


@pytest.mark.parametrize("objective", ["zero_one", "ramp"])
def test_one_input_under_two_labels_is_a_conflict(objective):
    """The pair cannot both be right, and the cut proves that one has to be given up."""
    snapshot = Snapshot(
        task="classification",
        inputs=np.ones((2, 1), np.float32),
        targets=np.array([0, 1]),
        weight=np.zeros((2, 1), np.float32),
        bias=np.zeros(2, np.float32),
    )
    problem = problem_of(snapshot, job(objective, radius=0.4))
    requirements = requirements_of(problem)
    assert relax(cuts_model(requirements, pair_cuts(problem, requirements)), lambda: False).bound == 1.0


def test_any_duals_give_a_valid_bound():
    """The Lagrangian bound holds for nonsense duals, too: it is below every feasible point's cost."""
    problem, requirements = _case("hinge")
    left = screen(requirements).requirements
    model = compact_model(problem, left)
    rng = np.random.default_rng(0)
    points = [
        complete(left, columns_of(problem, left), change, left.values(problem, change)) for change in _points(problem)
    ]
    cheapest = min(model.objective @ point for point in points)
    for _ in range(20):
        bound = lagrangian_bound(
            model.objective,
            model.matrix,
            rng.normal(size=model.rows),
            row_lower=model.row_lower,
            lower=model.lower,
            upper=model.upper,
        )
        assert bound <= cheapest
