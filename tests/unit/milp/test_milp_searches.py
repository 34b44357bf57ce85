"""The searches that need no model: exact line searches, walks, descents, and the schedule that pays for them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shared.constraints import violations
from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import problem_of
from solver_service.milp.final_layer.infeasible import contradictions
from solver_service.milp.heuristics.descents.adam import Arms, descend
from solver_service.milp.heuristics.descents.long_descents import Polishing
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision
from solver_service.milp.heuristics.descents.slopes import losses_of, slopes_of
from solver_service.milp.heuristics.schedule import Account, Schedule
from solver_service.milp.heuristics.walks.discrete import Discrete
from solver_service.milp.heuristics.walks.line import Kinks, Line, losses_at, stretches
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.rounding.into_box import weights_of
from solver_service.milp.solve import solve

FLOORS = [
    {"type": "recall_floor", "value": 0.7, "classes": [1]},
    {"type": "group_rate_gap", "value": 0.1},
]


def blobs(seed: int, *, samples: int = 80, inputs: int = 4, classes: int = 3, scale: float = 1.0) -> Snapshot:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(samples, inputs))
    true = rng.normal(size=(classes, inputs))
    targets = (features @ true.T + 1.5 * rng.normal(size=(samples, classes))).argmax(axis=1)
    return Snapshot(
        task="classification",
        inputs=(scale * features).astype(np.float32),
        targets=targets,
        weight=((true + rng.normal(size=true.shape)) / scale).astype(np.float32),
        bias=np.zeros(classes, dtype=np.float32),
        group=rng.integers(2, size=samples),
    )


def job(objective: str, **more: object) -> JobSpec:
    return JobSpec.model_validate({"objective": objective, "radius": 0.5, **more})


def walk_of(snapshot: Snapshot, spec: JobSpec, seed: int = 0) -> Walk:
    problem = problem_of(snapshot, spec)
    return Walk(problem, Tally.of(problem), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_stretches_count_what_is_right_at_each_step(seed: int) -> None:
    """Cumulative sums over the sorted ends agree with counting at every step, cell by cell."""
    rng = np.random.default_rng(seed)
    low, high = rng.normal(size=(2, 50))
    line = Line(low, high, rng.integers(1, 4, size=50).astype(np.float64), rng.integers(3, size=50))
    found = stretches(line, 3, -1.0, 1.0)
    for middle, right in zip(found.middle, found.right, strict=True):
        inside = (line.low <= middle) & (middle <= line.high)
        assert np.allclose(right, np.bincount(line.cell[inside], line.weight[inside], 3))
    assert np.isclose(found.width.sum(), 2.0)


def test_losses_along_a_line_are_the_sum_of_the_ramps() -> None:
    """Cumulative sums of slopes agree with adding the ramps up at each step."""
    rng = np.random.default_rng(0)
    ends = np.sort(rng.uniform(-1, 1, size=(2, 30)), axis=0)
    slope = rng.normal(size=30)

    def direct(step: float) -> float:
        return float((slope * (np.clip(step, ends[0], ends[1]) - np.clip(0.0, ends[0], ends[1]))).sum())

    steps = np.linspace(-1, 1, 41)
    assert np.allclose(losses_at(Kinks(ends[0], ends[1], slope, 5.0), steps), [5.0 + direct(step) for step in steps])


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "worst_class", "worst_group"])
def test_a_line_search_finds_the_best_step(objective: str) -> None:
    """No step of a fine grid over the line beats the one that was taken."""
    for seed in range(4):
        walk = walk_of(blobs(seed), job(objective))
        problem, before = walk._problem, walk.change.copy()
        unit, entry = seed % 3, seed % 5
        walk.single(unit, np.array([entry]), np.ones(1))
        tried = []
        for value in np.linspace(-1, 1, 400):
            change = before.copy()
            change[unit, entry] = value
            tried.append(walk.rank_of(problem.scores_at(change)).value)
        assert walk.rank.value <= min(tried) + 1e-9


def test_outliers_are_walked_by_their_intervals() -> None:
    """Errors within a tolerance on both sides: a walk only ever gains."""
    snapshot = blobs(0)
    targets = (snapshot.inputs @ snapshot.weight.T)[:, :1] + np.float32(0.3)
    fit = replace(snapshot, task="regression", targets=targets, weight=snapshot.weight[:1], bias=snapshot.bias[:1])
    walk = walk_of(fit, job("outliers", tolerance=0.2))
    before = walk.rank.value
    for _ in range(20):
        walk.random_step()
    assert walk.rank.value < before


def test_a_walk_gets_to_what_keeps_the_constraints_and_stays_there() -> None:
    """Constraints first; once they are kept no step breaks them, and every step is at least as good."""
    snapshot, spec = blobs(1, samples=200), job("zero_one", constraints=FLOORS)
    walk = walk_of(snapshot, spec)
    kept = False
    for _ in range(300):
        before = walk.rank
        walk.random_step()
        kept = kept or before.broken == 0
        if kept:
            assert walk.rank.broken == 0
            assert before.broken > 0 or walk.rank.value <= before.value
    weight, bias = weights_of(walk._problem, walk.change)
    assert kept
    assert violations(spec.constraints, snapshot, weight, bias) == []


@pytest.mark.parametrize("seed", range(6))
def test_a_tally_agrees_with_the_one_definition_of_feasible(seed: int) -> None:
    """Floors and gaps over cells are broken exactly where the constraints are."""
    snapshot, spec = blobs(seed), job("zero_one", constraints=FLOORS)
    problem = problem_of(snapshot, spec)
    tally, rng = Tally.of(problem), np.random.default_rng(seed)
    for _ in range(20):
        weight, bias = weights_of(problem, rng.uniform(-1, 1, size=problem.radius.shape))
        scores = snapshot.inputs.astype(np.float64) @ weight.T.astype(np.float64) + bias
        own = scores[np.arange(len(scores)), snapshot.targets]
        scores[np.arange(len(scores)), snapshot.targets] = -np.inf
        right = tally.gather((own - scores.max(axis=1) >= 1e-4).astype(np.float64))
        assert (tally.broken(right) == 0) == (violations(spec.constraints, snapshot, weight, bias) == [])


def test_weights_on_a_grid_and_zeros_stay_what_they_are() -> None:
    """Steps go from multiple to multiple, and never make more weights differ from 0 than are allowed."""
    constraints = [
        {"type": "grid", "value": 0.25, "classes": [0]},
        {"type": "max_nonzero", "value": 2, "classes": [1]},
        {"type": "levels", "levels": [-1.0, 0.0, 0.5], "classes": [2]},
    ]
    walk = walk_of(blobs(2), job("zero_one", radius=3.0, constraints=constraints))
    before = walk.rank.value
    for _ in range(200):
        walk.random_step()
    weight, _ = weights_of(walk._problem, walk.change)
    assert np.allclose(weight[0] / 0.25, np.round(weight[0] / 0.25), atol=1e-5)
    assert np.count_nonzero(np.abs(weight[1]) > 1e-6) <= 2
    assert np.isin(np.round(weight[2], 5), [-1.0, 0.0, 0.5]).all()
    assert walk.rank.value < before


def test_nothing_is_discrete_without_such_a_constraint() -> None:
    """A problem without grids, levels or numbers of nonzeros has no discrete part."""
    assert Discrete.of(problem_of(blobs(0), job("ramp"))) is None


def descended(scale: float, time_left: Callable[[], float] = lambda: 1.0) -> list[float]:
    """What two descents gain whose inputs are in other units and whose weights match them."""
    problem = problem_of(blobs(3, scale=scale), job("ramp", radius=0.5 / scale, bias_radius=0.5))
    block, samples = SinglePrecision.of(problem), len(problem.cost)
    arms = Arms(
        np.zeros((2, *problem.radius.shape), dtype=np.float32),
        np.array([0.1, 0.2], dtype=np.float32),
        np.array([1.0, 0.5], dtype=np.float32),
        np.ones((2, 1), dtype=np.float32),
    )
    ends = descend(
        block,
        slopes_of(problem, block.unit),
        np.ones(samples, dtype=np.float32),
        np.zeros(samples, dtype=np.int64),
        arms,
        steps=40,
        rng=np.random.default_rng(0),
        should_stop=bool,
        time_left=time_left,
    )
    assert np.abs(ends).max() <= 1.0
    return [problem.loss(problem.scores) - problem.loss(problem.scores_at(end.astype(np.float64))) for end in ends]


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_descents_do_not_depend_on_the_units_of_the_inputs(scale: float) -> None:
    """Inputs in other units, weights to match: the same gain, inside the box."""
    assert min(descended(1.0)) > 1.0
    assert descended(scale) == pytest.approx(descended(1.0), rel=0.01)


def test_a_descent_that_is_late_ends_with_small_steps() -> None:
    """Rates fall with the planned time where it runs out before the steps do; without any left nothing moves."""
    assert descended(1.0, lambda: 0.0) == [0.0, 0.0]
    assert 0.0 < min(descended(1.0, lambda: 0.01)) < min(descended(1.0))


class Ticking(Control):
    """A control whose clock moves by hand."""

    now = 0.0

    @property
    def elapsed(self) -> float:
        return self.now


class Paying:
    """A strategy that takes a second and pays a fixed amount, for some times."""

    def __init__(self, world: dict[str, float], clock: Ticking, pays: float, times: int) -> None:
        self.world, self.clock, self.pays, self.left, self.taken = world, clock, pays, times, 0

    def advance(self, budget: Budget) -> bool:
        self.clock.now += 1.0
        self.taken += 1
        self.world["value"] -= self.pays
        self.left -= 1
        return self.left > 0


def test_the_schedule_gives_the_time_to_what_pays() -> None:
    """Of two searches the one that gains gets most of the slices; the other one still gets some."""
    world, clock = {"value": 1000.0}, Ticking()
    good, bad = Paying(world, clock, 1.0, 10**6), Paying(world, clock, 0.0, 10**6)
    schedule = Schedule(
        [Account("bad", bad), Account("good", good)],
        Budget(clock, 200.0, 10**9),
        value=lambda: world["value"],
        settled=lambda: False,
        improved_s=lambda: clock.now,
        reproducible=False,
    )
    schedule.run()
    assert clock.now == pytest.approx(200.0)
    assert good.taken > 1.8 * bad.taken > 0


def test_the_schedule_ends_when_all_searches_have_ended_or_nothing_better_can_be_found() -> None:
    """Exhausted strategies end it before the budget does, and so does a value that meets its bound."""
    for settled in (False, True):
        world, clock = {"value": 10.0}, Ticking()
        strategy = Paying(world, clock, 1.0, 5)
        Schedule(
            [Account("one", strategy)],
            Budget(clock, 200.0, 10**9),
            value=lambda world=world: world["value"],
            settled=lambda settled=settled, world=world: settled and world["value"] <= 8,
            improved_s=lambda clock=clock: clock.now,
            reproducible=False,
        ).run()
        assert strategy.taken == (2 if settled else 5)


@pytest.mark.parametrize(("patience", "taken"), [(np.inf, 5), (1.0, 1)])
def test_what_leads_ends_the_others_only_where_something_comes_after_them(patience: float, taken: int) -> None:
    """A search that has nothing left to do is no reason to leave time unused that nobody else will have."""
    world, clock = {"value": 10.0}, Ticking()
    first, other = Paying(world, clock, 0.0, 1), Paying(world, clock, 1.0, 5)
    Schedule(
        [Account("other", other), Account("first", first, leads=True)],
        replace(Budget(clock, 200.0, 10**9), patience=patience),
        value=lambda: world["value"],
        settled=lambda: False,
        improved_s=lambda: clock.now,
        reproducible=False,
    ).run()
    assert other.taken == taken


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "hinge", "log_loss"])
def test_a_job_that_is_too_large_for_models_is_searched_all_the_same(objective: str) -> None:
    """Where no model would fit the time, the result is better than the start all the same, and says what it is."""
    snapshot = blobs(5, samples=3000, inputs=120, classes=5)
    report = solve(snapshot, job(objective, radius=0.05, limits={"time_s": 1.0})).result
    assert report.objective.final < report.objective.start
    assert np.isfinite(report.objective.bound)


def test_samples_that_every_good_solution_gives_up_on_are_suspects() -> None:
    """A few wrong labels among many clean samples are named, the worst first, and nothing else is."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 3)).astype(np.float32)
    targets = (features[:, 0] > 0).astype(np.int64)
    far = np.argsort(-np.abs(features[:, 0]))[:5]
    targets[far] = 1 - targets[far]
    snapshot = Snapshot(
        task="classification",
        inputs=features,
        targets=targets,
        weight=np.zeros((2, 3), dtype=np.float32),
        bias=np.zeros(2, dtype=np.float32),
    )
    result = solve(snapshot, job("ramp", radius=2.0, limits={"time_s": 2.0})).result
    assert set(far.tolist()) <= {suspect.index for suspect in result.suspects}
    assert result.suspects[0].index in far
    assert all(suspect.margin < 0 and 0.8 <= suspect.share <= 1 for suspect in result.suspects)


@pytest.mark.parametrize("objective", ["ramp", "zero_one", "outliers"])
def test_slopes_are_those_of_the_losses(objective: str) -> None:
    """What a long descent follows is the derivative of what it measures, away from the kinks."""
    snapshot = blobs(7, samples=30)
    if objective == "outliers":
        values = (snapshot.inputs @ snapshot.weight.T + 0.5).astype(np.float32)
        snapshot = replace(snapshot, task="regression", targets=values)
    problem = problem_of(snapshot, job(objective, tolerance=0.2 if objective == "outliers" else None))
    block, width = SinglePrecision.of(problem), np.array([1.0], dtype=np.float32)
    losses, slopes = losses_of(problem, block.unit), slopes_of(problem, block.unit)
    weights = np.ones((30, 1), dtype=np.float32)
    outputs = block.outputs(np.zeros((1, *problem.radius.shape), dtype=np.float32))
    found = slopes(outputs.copy(), np.arange(30), width, weights)
    rng, shift, here, compared = np.random.default_rng(0), 1e-3, losses(outputs, width, weights), 0
    for sample, unit in zip(rng.integers(30, size=40), rng.integers(3, size=40), strict=True):
        moved = [outputs.copy(), outputs.copy()]
        moved[0][sample, 0, unit] += shift
        moved[1][sample, 0, unit] -= shift
        ahead, behind = ((losses(values, width, weights) - here) / shift for values in moved)
        if abs(ahead + behind) < 0.02:  # no kink in between
            assert (ahead - behind) / 2 == pytest.approx(float(found[sample, 0, unit]), abs=0.02)
            compared += 1
    assert compared > 20


def test_a_long_descent_gains_and_never_loses() -> None:
    """Each run of the strategy leaves the incumbent as it was, or better."""
    problem, control = problem_of(blobs(8, samples=300), job("ramp")), Control()
    incumbents = Incumbents(problem, control)
    rng = np.random.default_rng(0)
    polishing = Polishing(problem, SinglePrecision.of(problem), incumbents, rng, reproducible=True)
    values = [incumbents.best.objective]
    for _ in range(3):
        assert polishing.advance(Budget(control, 60.0, 10))
        values.append(incumbents.best.objective)
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] - 5


def test_a_count_that_reductions_make_small_is_bounded_before_it_is_searched() -> None:
    """A narrow box leaves all but a few of 3,000 samples as they are: a bound at once, and a search that meets it."""
    rng = np.random.default_rng(0)
    centres, classes = 3 * rng.normal(size=(4, 12)), rng.integers(0, 4, 3000)
    features = centres[classes] + rng.normal(size=(3000, 12))
    features[:20] = (centres[0] + centres[1]) / 2 + 0.3 * rng.normal(size=(20, 12))
    weight, bias = centres.astype(np.float32), (-(centres**2).sum(axis=1) / 2).astype(np.float32)
    snapshot = Snapshot("classification", features.astype(np.float32), classes, weight, bias)
    told: list[str] = []
    spec = JobSpec(objective="zero_one", radius=0.1, limits={"time_s": 20})
    report = solve(snapshot, spec, Control(on_text=told.append)).result.objective
    text = "".join(told)
    assert text.index("relaxation") < text.index("searches")
    assert report.final == report.bound


def test_what_the_box_proves_of_shares_is_left_out_where_there_is_no_time_for_it() -> None:
    """A contradiction on samples is looked for unless told otherwise; one on single weights always."""
    snapshot = blobs(1)
    floor = [{"type": "recall_floor", "value": 1.0}]
    spec = JobSpec(objective="zero_one", radius=1e-6, constraints=floor)
    problem = problem_of(snapshot, spec)
    assert contradictions(snapshot, spec, problem)
    assert contradictions(snapshot, spec, problem, shares=False) == []
