"""Screening decides only what the box decides."""

import numpy as np
import pytest
from milp_cases import tiny

from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.presolve.screening import screen

OBJECTIVES = ("zero_one", "ramp", "hinge", "mae", "max_error", "outliers")


def _changes(problem, count=200):
    """Random points and corners of the box."""
    rng = np.random.default_rng(5)
    points = rng.uniform(-1, 1, (count, *problem.radius.shape))
    return np.concatenate([points, np.sign(points)])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(8))
def test_what_is_screened_is_decided_everywhere_in_the_box(objective, seed):
    """The remaining loss plus the screened cost is the whole loss, at every point of the box."""
    snapshot, spec = tiny(seed, objective, n=20, weighted=True)
    problem = problem_of(snapshot, spec)
    everything = requirements_of(problem)
    screened = screen(everything)
    left = screened.requirements
    for change in _changes(problem):
        whole = everything.losses(everything.shortfalls(everything.values(problem, change))).sum()
        part = left.losses(left.shortfalls(left.values(problem, change))).sum()
        assert part + screened.cost == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_requirements_state_the_shared_objective(objective):
    """The losses of the requirements add up to the one definition of better."""
    snapshot, spec = tiny(4, objective, n=12, weighted=True)
    problem = problem_of(snapshot, spec)
    requirements = requirements_of(problem)
    losses = requirements.losses(requirements.shortfalls(requirements.level))
    assert losses.sum() == pytest.approx(spec.goal.value(snapshot, snapshot.weight, snapshot.bias))


def test_reach_is_attained():
    """Both ends of every row's range are values inside the box, so that no tighter big-M exists."""
    snapshot, spec = tiny(6, "zero_one", own_radii=True)
    problem = problem_of(snapshot, spec)
    requirements = requirements_of(problem)
    for row in range(requirements.rows):
        direction = np.zeros(problem.radius.shape)
        direction[requirements.plus[row]] = np.sign(problem.inputs[requirements.sample[row]])
        direction[requirements.minus[row]] = -np.sign(problem.inputs[requirements.sample[row]])
        assert requirements.values(problem, direction)[row] == pytest.approx(requirements.high[row])
        assert requirements.values(problem, -direction)[row] == pytest.approx(requirements.low[row])


def test_a_hopeless_sample_costs_its_weight_and_leaves_the_model():
    """In a tiny box most samples are decided before any solver."""
    snapshot, spec = tiny(1, "zero_one", n=40)
    spec = spec.model_copy(update={"radius": 1e-6, "bias_radius": 1e-6})
    screened = screen(requirements_of(problem_of(snapshot, spec)))
    assert screened.requirements.rows == 0
    assert screened.cost == spec.goal.value(snapshot, snapshot.weight, snapshot.bias)
    assert screened.samples == 0
