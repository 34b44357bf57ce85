"""Many classes: tables of scores [N, K] that are looked at in parts, and searches that do without whole passes."""

import numpy as np
import pytest

import shared.losses
import shared.objectives
from shared.activations import Activation
from shared.contracts import JobSpec
from shared.losses import cross_entropy, margins
from shared.objectives import OF_TASK, Objective, label_margins, label_margins_at, outputs
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import problem_of
from solver_service.milp.final_layer import improving
from solver_service.milp.final_layer.improving import Improver
from solver_service.milp.heuristics.descents import rounds, stand_in_descents
from solver_service.milp.heuristics.descents.adam import Arms
from solver_service.milp.heuristics.descents.rounds import Descents
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision
from solver_service.milp.heuristics.descents.stand_in_descents import StandInDescents
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

TASKS = [(task, name) for task, names in OF_TASK.items() for name in names]


def drawn(task: str, samples: int = 150, classes: int = 5, *, tail: bool = False) -> Snapshot:
    """Random data of a task, with weights, groups, offsets, and one sample that does not count."""
    rng = np.random.default_rng(3)
    units = 1 if task == "binary" else classes
    shape = samples if task == "classification" else (samples, units)
    targets = rng.normal(size=shape).astype(np.float32)
    if task != "regression":
        targets = rng.integers(0, classes if task == "classification" else 2, shape)
    sample_weight = rng.uniform(0.5, 2.0, samples).astype(np.float32)
    sample_weight[7] = 0
    arrays = {
        "weight": rng.normal(size=(4 if tail else units, 6)).astype(np.float32),
        "bias": rng.normal(size=4 if tail else units).astype(np.float32),
        "sample_weight": sample_weight,
        "group": rng.integers(0, 2, samples),
        "offset": rng.normal(size=(samples, 4 if tail else units)).astype(np.float32),
    }
    if tail:
        arrays["tail"] = (
            TailLayer(
                rng.normal(size=(units, 4)).astype(np.float32),
                rng.normal(size=units).astype(np.float32),
                Activation.parse("identity"),
                rng.normal(size=(samples, units)).astype(np.float32),
            ),
        )
        arrays["activation"] = Activation.parse("relu")
    return Snapshot(task, rng.normal(size=(samples, 6)).astype(np.float32), targets, **arrays)


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize(("task", "name"), TASKS)
def test_a_value_is_the_same_in_parts(task: str, name: str, tail: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows are looked at together, and from outputs at once, it is one value."""
    snapshot, goal = drawn(task, tail=tail), Objective(name, tolerance=0.5)
    whole = goal.value(snapshot, snapshot.weight, snapshot.bias)
    monkeypatch.setattr(shared.objectives, "ENTRIES_AT_ONCE", 40)
    monkeypatch.setattr(shared.losses, "ENTRIES_AT_ONCE", 16)
    assert goal.value(snapshot, snapshot.weight, snapshot.bias) == pytest.approx(whole, rel=1e-12)
    scores = outputs(snapshot, snapshot.weight, snapshot.bias)
    assert goal.of_outputs(snapshot, scores) == pytest.approx(whole, rel=1e-12)
    if task != "regression":
        found = label_margins_at(snapshot, snapshot.weight, snapshot.bias)
        assert np.allclose(found, label_margins(snapshot, scores), rtol=1e-12, atol=1e-12)


def test_margins_and_losses_do_not_depend_on_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row nothing changes, to the last bit; and the scores stay as they are."""
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(100, 7)), rng.integers(0, 7, 100)
    before, whole = scores.copy(), (margins(scores, targets), cross_entropy(scores, targets))
    monkeypatch.setattr(shared.losses, "ENTRIES_AT_ONCE", 20)
    assert np.array_equal(margins(scores, targets), whole[0])
    assert np.array_equal(cross_entropy(scores, targets), whole[1])
    assert np.array_equal(scores, before)


@pytest.mark.parametrize(("task", "name"), [pair for pair in TASKS if pair[1] != "max_error"])
def test_some_samples_are_a_problem_of_their_own(task: str, name: str) -> None:
    """Costs of two parts add up to those of all, and scores move as they do there."""
    problem = problem_of(drawn(task), JobSpec(objective=name, radius=0.5, tolerance=0.5))
    parts = [np.arange(0, 60), np.arange(60, len(problem.inputs))]
    assert problem.value_at_start == problem.value(problem.snapshot.weight, problem.snapshot.bias)
    change = np.random.default_rng(1).uniform(-1, 1, problem.radius.shape)
    moved = np.concatenate([problem.part(rows).scores_at(change) for rows in parts])
    assert np.allclose(moved, problem.scores_at(change), rtol=0, atol=1e-12)
    if name in ("zero_one", "ramp", "hinge", "outliers"):
        total = sum(problem.part(rows).loss(problem.part(rows).scores) for rows in parts)
        assert total == pytest.approx(problem.loss(problem.scores), rel=1e-12)


def test_the_value_at_a_start_outside_the_signs_is_the_start_s() -> None:
    """Where constraints cut the box its center is elsewhere."""
    constraints = [{"type": "nonnegative"}]
    problem = problem_of(drawn("classification"), JobSpec(objective="hinge", radius=0.5, constraints=constraints))
    assert problem.value_at_start == problem.value(problem.snapshot.weight, problem.snapshot.bias)


def test_a_thousand_sets_make_the_cells_that_few_would() -> None:
    """Samples share a cell if they are in the same sets, and cells are in the order of their memberships."""
    snapshot = drawn("classification", 400, 130)
    floors = [{"type": "recall_floor", "value": 0.1}, {"type": "recall_floor", "value": 0.1, "groups": [1]}]
    problem = problem_of(snapshot, JobSpec(objective="zero_one", radius=1.0, constraints=floors))
    tally = Tally.of(problem)
    counted = snapshot.sample_weight > 0
    targets, groups = snapshot.targets[counted], snapshot.group[counted]
    sets = [targets == number for number in np.unique(targets)]
    sets += [(targets == number) & (groups == 1) for number in np.unique(targets[groups == 1])]
    _, cell = np.unique(np.array(sets), axis=1, return_inverse=True)
    assert np.array_equal(tally.cell, cell.ravel())
    assert np.allclose(tally.total, np.bincount(tally.cell, weights=problem.weights))


def clouds(classes: int = 60, samples: int = 3000) -> Snapshot:
    """Many classes that can be told apart, and weights of 0."""
    rng = np.random.default_rng(0)
    centres, targets = 3 * rng.normal(size=(classes, 30)), rng.integers(0, classes, samples)
    inputs = (centres[targets] + 0.3 * rng.normal(size=(samples, 30))).astype(np.float32)
    return Snapshot(
        "classification", inputs, targets, np.zeros((classes, 30), np.float32), np.zeros(classes, np.float32)
    )


def improver_of(objective: str, time_s: float) -> Improver:
    spec, control = JobSpec(objective=objective, radius=1.0, limits={"time_s": time_s}), Control()
    problem = problem_of(clouds(), spec)
    return Improver(problem, spec, control, Incumbents(problem, control))


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "hinge", "log_loss", "worst_class"])
def test_whole_passes_are_left_out_where_they_do_not_fit(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks at all scores at each step is no search of a job whose time holds only a few such looks."""
    monkeypatch.setattr(improving, "STOOD_IN_PER_S", 1)
    whole = {improving.WALKS, improving.SMOOTHED, improving.LONG, improving.STAND_IN}
    for scored, held in ((1, set()), (10**12, whole)):
        monkeypatch.setattr(improving, "SCORED_PER_S", scored)
        monkeypatch.setattr(improving, "PASSED_PER_S", scored)
        improver = improver_of(objective, 1.0)
        assert improver.soon_scored == bool(held)
        improver.first(Budget(improver.control, 0.0, 0))
        improver.run(Budget(improver.control, 0.0, 0))
        names = {account.name for account in improver.accounts}
        assert improving.STAND_IN_DESCENTS in names
        assert not names & (whole - held)
        if objective == "zero_one":
            assert held <= names


@pytest.mark.parametrize("objective", ["zero_one", "hinge", "ramp"])
def test_what_gets_ahead_fast_goes_on_until_it_does_not(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descents on the stand-in are run again and again before any other search begins, and none does once all is won.

    Margins of 1 are nothing that cross-entropy knows: multiples of its ends make them.
    """
    monkeypatch.setattr(improving, "STOOD_IN_PER_S", 1)
    improver = improver_of(objective, 60.0)
    improver.first(Budget(improver.control, 120.0, 10**8))
    descents = next(a.strategy for a in improver.accounts if isinstance(a.strategy, Descents))
    if objective == "zero_one":
        assert improver.incumbents.best.objective == 0
        assert descents.rounds == 0
    else:
        assert improver.incumbents.best.objective < 0.02 * len(improver.problem.inputs)


def test_a_run_that_ends_worse_is_no_place_to_go_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one begins where the best one ended, more slowly."""
    problem, control = problem_of(clouds(), JobSpec(objective="zero_one", radius=1.0)), Control()
    block, rng = SinglePrecision.of(problem), np.random.default_rng(0)
    search = StandInDescents(problem, block, Incumbents(problem, control), None, rng, True)
    budget = Budget(control, 1e9, 10)
    search.advance(budget)
    begun: list[Arms] = []

    def astray(*parts: object, **_: object) -> np.ndarray:
        begun.append(parts[4])
        return -begun[-1].changes

    monkeypatch.setattr(stand_in_descents, "descend", astray)
    search.advance(budget)
    search.advance(budget)
    assert not search.gaining
    assert np.array_equal(begun[0].changes, begun[1].changes)
    assert 0 < begun[1].rate[0] < begun[0].rate[0]


def test_ends_are_ranked_by_some_samples_where_all_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of some ends by a part of the samples is the best by all, where they differ much."""
    problem, control = problem_of(clouds(), JobSpec(objective="zero_one", radius=1.0)), Control()
    tally, rng = Tally.of(problem), np.random.default_rng(0)
    walk = Walk(problem, tally, rng)
    changes = np.stack([scale * rng.normal(size=problem.radius.shape) for scale in (0.0, 0.1, 1.0)]).astype(np.float32)
    changes[0] = np.pad(-problem.inputs.mean(axis=0)[None, :-1], ((0, 59), (0, 1)))
    found = []
    for most in (10**9, 1000):
        monkeypatch.setattr(rounds, "JUDGED", most)
        monkeypatch.setattr(rounds, "JUDGES", 500)
        descents = Descents(problem, tally, Incumbents(problem, control), rng, True, walk.fork())
        found.append(np.array(descents._values(changes)) / len(descents._judges[1].inputs))
    assert len(descents._judges[1].inputs) == 500
    assert np.allclose(*found, atol=0.05)


def test_descents_begin_where_somebody_has_been_if_nothing_pulls_at_the_start() -> None:
    """Where all scores are alike no sample is on either side; elsewhere arms begin at the start."""
    for snapshot, elsewhere in ((clouds(), True), (drawn("classification"), False)):
        problem, control = problem_of(snapshot, JobSpec(objective="zero_one", radius=1.0)), Control()
        tally, rng, incumbents = Tally.of(problem), np.random.default_rng(0), Incumbents(problem, control)
        while incumbents.best.objective >= incumbents.start:
            incumbents.offer_whole(rng.uniform(-1, 1, problem.radius.shape))
        descents = Descents(problem, tally, incumbents, rng, True, Walk(problem, tally, rng))
        begun = descents._arms(2, warm=False).changes
        assert np.allclose(begun, incumbents.whole_change if elsewhere else 0.0)


def test_a_run_that_would_be_shorter_than_the_last_one_is_none() -> None:
    """It would lose what that gained: the time is others'."""
    problem, control = problem_of(clouds(), JobSpec(objective="zero_one", radius=1.0)), Control()
    block, rng = SinglePrecision.of(problem), np.random.default_rng(0)
    search = StandInDescents(problem, block, Incumbents(problem, control), None, rng, False)
    search._ran_s = 10.0
    assert not search.advance(Budget(control, control.elapsed + 5.0, 10**8))
    assert search._reached is None
