"""From float64 to float32 and still inside the box; and counts that survive it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from milp_cases import job, smallest_margin, tiny

from solver_service.milp.core.float32 import round_into_box
from solver_service.milp.core.problem import problem_of
from solver_service.milp.rounding.into_box import change_of, weights_of
from solver_service.milp.solve import solve

CENTERS = hnp.arrays(np.float32, 8, elements=st.floats(-(2.0**100), 2.0**100, width=32))
RADII = hnp.arrays(np.float64, 8, elements=st.floats(0, 1e30))
FRACTIONS = hnp.arrays(np.float64, 8, elements=st.floats(-1, 1))


@settings(max_examples=200, deadline=None)
@given(CENTERS, RADII, FRACTIONS)
def test_rounding_never_leaves_the_box(center, radius, fraction):
    """Any centre, any radius: the float32 result is within the radius in float64 arithmetic."""
    found = round_into_box(center, radius * fraction, radius)
    assert found.dtype == np.float32
    assert (np.abs(found.astype(np.float64) - center.astype(np.float64)) <= radius).all()


def test_a_change_survives_the_way_to_weights_and_back():
    """Weights of a change lead back to it, as far as float32 goes."""
    problem = problem_of(*tiny(2, "zero_one", own_radii=True))
    change = np.random.default_rng(0).uniform(-1, 1, problem.radius.shape)
    back = change_of(problem, *weights_of(problem, change))
    moved = problem.radius > 1e-3
    assert np.allclose(back[moved], change[moved], atol=1e-3)


def test_kept_samples_are_pushed_off_the_threshold():
    """No margin of a solution is so near to the threshold that other arithmetic would count it differently."""
    for seed in range(5):
        snapshot, _ = tiny(300 + seed, "zero_one", n=30, d=6, h=4)
        solution = solve(snapshot, job("zero_one", time_s=1))
        assert smallest_margin(snapshot, solution) > 1e-6
