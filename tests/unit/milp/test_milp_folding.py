"""Columns that models need not tell apart become one, and no optimum is lost or invented by it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milp_cases import assert_honest, job, optimum, tiny

from shared.contracts import SolveStatus
from shared.snapshot import Snapshot
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.presolve.aggregation import fold, not_aggregated
from solver_service.milp.presolve.screening import screen
from solver_service.milp.rounding.into_box import change_of, weights_of
from solver_service.milp.solve import solve

OBJECTIVES = ("zero_one", "ramp", "hinge", "mae", "max_error", "outliers")
CLASSES = ("zero_one", "ramp", "hinge")
STRUCTURES = {
    "zero": np.zeros_like,
    "duplicate": lambda inputs: inputs,
    "negative": lambda inputs: -2 * inputs,
    "constant": lambda inputs: np.full_like(inputs, -0.7),
}


def widened(snapshot, kinds):
    """The snapshot with one more input per kind, made of its first one."""
    more = [STRUCTURES[kind](snapshot.inputs[:, :1]) for kind in kinds]
    tensors = {
        name: getattr(snapshot, name)
        for name in ("targets", "bias", "offset", "sample_weight", "bias_radius")
        if getattr(snapshot, name) is not None
    }
    for name in ("weight", "radius"):
        values = getattr(snapshot, name)
        if values is not None:
            tensors[name] = np.hstack([values, *[values[:, :1] * np.float32(0.5)] * len(kinds)])
    return Snapshot(task=snapshot.task, inputs=np.hstack([snapshot.inputs, *more]), **tensors)


def folded(snapshot, spec):
    """The problem, its screened requirements, and both folded."""
    problem = problem_of(snapshot, spec)
    screened = screen(requirements_of(problem))
    return problem, screened, *fold(problem, screened)


def case(seed, objective, kinds, **shape):
    """A tiny job with these structures among its inputs."""
    snapshot, spec = tiny(seed, objective, **shape)
    return widened(snapshot, kinds), spec


@pytest.mark.parametrize(
    ("kinds", "shape", "removed"),
    [
        ((), {"n": 40}, (0, 0, 0)),
        (("zero",), {"n": 40}, (3, 0, 0)),
        (("duplicate",), {"n": 40}, (0, 3, 0)),
        (("negative",), {"n": 40}, (0, 3, 0)),
        (("constant",), {"n": 40}, (0, 3, 0)),
        (("constant", "constant"), {"n": 40, "bias": False}, (3, 3, 0)),
        ((), {"n": 40, "h": 2}, (0, 0, 3)),
        (("zero", "duplicate", "negative", "constant"), {"n": 40, "h": 2}, (2, 6, 3)),
    ],
)
def test_each_structure_is_found_and_counted(kinds, shape, removed):
    """Zeros (a bias that is not there, too), multiples, constants and the second of two classes leave the model."""
    problem, _, _, folding = folded(*case(0, "hinge", kinds, **shape))
    assert (folding.zero_columns, folding.merged_columns, folding.halved_columns) == removed
    assert folding.space.columns == problem.columns - sum(removed)


@pytest.mark.parametrize("kinds", [(), *([kind] for kind in STRUCTURES), tuple(STRUCTURES)], ids=str)
@pytest.mark.parametrize("shape", [{}, {"h": 2}, {"bias": False}, {"own_radii": True, "weighted": True}], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_optimum_stays(objective, shape, kinds):
    """Each structure alone and all together reach and prove the exhaustive optimum, with weights inside the box."""
    snapshot, spec = case(7, objective, kinds, **{"n": 5} | shape)
    solution = solve(snapshot, spec)
    assert_honest(snapshot, spec, solution)
    assert solution.result.status is SolveStatus.OPTIMAL
    assert solution.result.objective.final == pytest.approx(optimum(snapshot, spec), abs=2e-5)
    assert solution.result.objective.bound <= optimum(snapshot, spec) + 1e-7


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    objective=st.sampled_from(OBJECTIVES),
    kinds=st.lists(st.sampled_from(list(STRUCTURES)), max_size=4),
    h=st.integers(2, 3),
    bias=st.booleans(),
    own_radii=st.booleans(),
)
def test_a_folded_change_stands_for_a_whole_one_and_back(seed, objective, kinds, h, bias, own_radii):
    """Lowering keeps every row's value and stays in the box, lifting as well, and what was lifted lowers to itself."""
    problem, screened, small, folding = folded(*case(seed, objective, kinds, n=12, h=h, bias=bias, own_radii=own_radii))
    rng = np.random.default_rng(seed)
    for change in (rng.uniform(-1, 1, problem.radius.shape), rng.choice([-1.0, 1.0], problem.radius.shape)):
        lowered = folding.lower(change)
        lifted = folding.lift(lowered)
        assert lowered.shape == folding.space.radius.shape
        assert np.abs(lowered).max(initial=0) <= 1 + 1e-12
        assert np.abs(lifted).max(initial=0) <= 1 + 1e-12
        values = screened.requirements.values(problem, change)
        assert small.requirements.values(folding.space, lowered) == pytest.approx(values, abs=1e-9)
        assert screened.requirements.values(problem, lifted) == pytest.approx(values, abs=1e-9)
        moves = folding.space.radius > 0
        assert folding.lower(lifted)[moves] == pytest.approx(lowered[moves], abs=1e-9)


@pytest.mark.parametrize("shape", [{}, {"h": 2}, {"bias": False, "own_radii": True}], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_levels_and_reaches_stay(objective, shape):
    """Every row keeps its level, and moves as far in the folded box as in the whole one."""
    _, screened, small, folding = folded(*case(3, objective, tuple(STRUCTURES), **{"n": 20} | shape))
    before, after = screened.requirements, small.requirements
    assert (after.level == before.level).all()
    assert (after.reach == before.reach).all()
    assert (after.group == before.group).all()
    reach = np.abs(folding.space.inputs) @ folding.space.radius.T
    reach = np.hstack([reach, np.zeros((len(reach), 1))])
    attained = reach[after.sample, after.plus] + reach[after.sample, after.minus]
    assert attained == pytest.approx(before.reach, rel=1e-12)


def test_only_the_samples_left_decide_what_is_zero():
    """An input that is there for screened samples alone is dropped with them."""
    snapshot, spec = tiny(0, "zero_one", n=6, d=2)
    inputs = np.hstack([snapshot.inputs, np.zeros((6, 1), dtype=np.float32)])
    offset = np.zeros((6, 3), dtype=np.float32)
    inputs[0, 2], offset[0, snapshot.targets[0]] = 1.0, 100.0
    weight = np.hstack([snapshot.weight, np.zeros((3, 1), dtype=np.float32)])
    wider = Snapshot(
        task="classification",
        inputs=inputs,
        weight=weight,
        bias=snapshot.bias,
        targets=snapshot.targets,
        offset=offset,
    )
    _, screened, _, folding = folded(wider, spec)
    assert len(folding.space.inputs) == screened.samples < 6
    assert folding.zero_columns == 3


def test_nothing_is_left_of_what_screening_decides():
    """Without samples there are no columns, and a change of none stands for no change."""
    snapshot, spec = tiny(1, "zero_one", n=40)
    spec = spec.model_copy(update={"radius": 1e-6, "bias_radius": 1e-6})
    problem, _, small, folding = folded(snapshot, spec)
    assert (small.samples, folding.space.columns, folding.zero_columns) == (0, 0, problem.columns)
    assert not folding.lift(folding.space.radius).any()
    assert solve(snapshot, spec).result.status is SolveStatus.OPTIMAL


def test_columns_that_rounding_keeps_from_being_proportional_stay():
    """A multiple in float32 that is off by a bit is another input."""
    snapshot, spec = tiny(1, "hinge", n=20)
    inputs = np.hstack([snapshot.inputs, snapshot.inputs[:, :1] * np.float32(3)])
    inputs[4, 2] = np.nextafter(inputs[4, 2], np.float32(np.inf))
    wider = widened(snapshot, ("duplicate",))
    off = Snapshot(task="classification", inputs=inputs, weight=wider.weight, bias=wider.bias, targets=wider.targets)
    assert folded(off, spec)[3].merged_columns == 0


def test_the_same_change_comes_back_from_weights_of_an_unfolded_space():
    """Without a folding, lifting and lowering are the identity where anything moves."""
    problem = problem_of(*tiny(2, "zero_one", own_radii=True))
    change = np.random.default_rng(0).uniform(-1, 1, problem.radius.shape) * (problem.radius > 0)
    assert (not_aggregated(problem).lift(change) == change).all()
    assert not_aggregated(problem).lower(change) == pytest.approx(change)


@pytest.mark.parametrize("objective", CLASSES)
def test_nothing_that_may_move_is_no_obstacle(objective):
    """Samples of zeros in a layer without a bias leave models without any change in them."""
    snapshot, spec = tiny(5, objective, bias=False, h=2)
    still = Snapshot(
        task="classification",
        inputs=np.zeros_like(snapshot.inputs),
        weight=snapshot.weight,
        targets=snapshot.targets,
    )
    solution = solve(still, spec)
    assert_honest(still, spec, solution)
    assert solution.result.status is SolveStatus.OPTIMAL
    assert solution.result.changed_weights == 0


@pytest.mark.parametrize("solver", [{}, {"backend": "highs"}, {"formulation": "reference"}], ids=str)
def test_results_say_what_was_removed(solver):
    """Sizes count what folding and screening took out; the reference model takes nothing out."""
    snapshot, _ = case(0, "zero_one", ("zero", "duplicate"), n=12, h=2)
    solution = solve(snapshot, job("zero_one", radius=0.5, solver=solver))
    sizes = solution.result.sizes
    plain = "formulation" in solver
    assert (sizes.zero_columns, sizes.merged_columns, sizes.halved_columns) == ((0, 0, 0) if plain else (2, 2, 3))


def test_constraints_keep_every_column():
    """What looks at single weights needs them."""
    snapshot, _ = case(0, "hinge", ("duplicate",), h=2)
    asked = [{"type": "max_nonzero", "value": 4}]
    sizes = solve(snapshot, job("hinge", constraints=asked)).result.sizes
    assert (sizes.zero_columns, sizes.merged_columns, sizes.halved_columns) == (0, 0, 0)


def test_a_start_outside_is_taken_from_its_nearest_point():
    """A start is clipped into the box as a whole, before anything is folded."""
    snapshot, spec = case(4, "ramp", ("duplicate", "zero"), n=6)
    problem = problem_of(snapshot, spec)
    weight, bias = snapshot.weight + np.float32(9), snapshot.bias - np.float32(9)
    nearest = weights_of(problem, change_of(problem, weight, bias))
    solution = solve(snapshot, spec, start=Moved(weight, bias))
    assert solution.result.objective.final <= spec.goal.value(snapshot, *nearest) + 1e-9
