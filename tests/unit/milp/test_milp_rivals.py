"""The job is never worse than its rival on the small committed set; and the rivals themselves are honest."""

import math
from pathlib import Path

import numpy as np
import pytest
from exactness import instance
from milp_cases import job, tiny
from oracle import optimum

from benchmarks.rivals import turns
from benchmarks.rivals_case import Case, Clock, spec_of
from benchmarks.rivals_lines import Lines, Shares
from benchmarks.rivals_report import SAME, compare, ratio, table
from benchmarks.rivals_run import RIVALS, members, run_job, run_rival
from shared.constraints import violations
from shared.snapshot import Snapshot

FOLDER = Path(__file__).parents[3] / "benchmarks" / "snapshots"
ENDLESS = {"diabetes-whole4-300"}
"""Whole networks whose search no node limit ends: `make bench-rivals` compares them by the clock."""
COMMITTED = sorted(path.stem for path in FOLDER.glob("*.safetensors") if path.stem not in ENDLESS)
STEPS = 500
"""What a rival may do in a test: minibatches, evaluations or lines; without a clock every machine sees the same."""


NODES = {"whole": 600}
"""A job's node limit where it is not 0: for whole networks it counts rounds of the search, some milliseconds each."""


def data(name):
    return (FOLDER / f"{name}.safetensors").read_bytes()


def case_of(name, steps=math.inf):
    snapshot = Snapshot.from_bytes(data(name))
    return Case(snapshot, spec_of(dict(snapshot.note), 1.0, 0), Clock(steps=steps))


@pytest.mark.parametrize("name", COMMITTED)
def test_the_job_is_never_worse_than_its_rival(name):
    """With a node limit in place of a clock, no rival's weights are better after its steps."""
    nodes = max((limit for kind, limit in NODES.items() if kind in name), default=0)
    ours = run_job(data(name), seed=0, time_s=600, nodes=nodes)["value"]
    rivals = {rival: run_rival(rival, data(name), 0, Clock(steps=STEPS))["value"] for rival in members_of(name)}
    assert ours is not None
    assert {rival: value for rival, value in rivals.items() if value is not None and ours > value * (1 + SAME)} == {}


def members_of(name):
    return members(Snapshot.from_bytes(data(name)))


@pytest.mark.parametrize(
    ("rival", "name"), [(r, n) for n in COMMITTED for r in members_of(n) if n != "digits-ramp-1000"]
)
def test_a_rival_improves_on_the_start_and_repeats_itself(rival, name):
    """The same seed and steps give the same history, which falls."""
    first, again = (run_rival(rival, data(name), 3, Clock(steps=150)) for _ in range(2))
    values = [value for _, value in first["history"]]
    assert values == [value for _, value in again["history"]]
    assert values == sorted(values, reverse=True)
    assert first["steps"] >= 150


@pytest.mark.parametrize("number", range(24))
def test_no_rival_is_below_the_optimum_of_a_tiny_job(number):
    """Under any objective and constraints a rival claims no more than exhaustive search says can be had."""
    snapshot, spec = instance(5, number)
    best = optimum(snapshot, spec)
    for rival, fits in RIVALS.values():
        case = Case(snapshot, spec, Clock(steps=60))
        if fits(case):
            rival(case, np.random.default_rng(0))
            assert case.best >= (math.inf if best is None else best - 2e-5 * max(1.0, best))


def test_every_rival_takes_part_somewhere():
    """No rival is dead code on the committed set."""
    assert {rival for name in COMMITTED for rival in members_of(name)} == set(RIVALS)


def test_the_ledger_keeps_nothing_outside_the_box():
    """A better point beyond the box is clipped before it is counted."""
    case = case_of("polynomial-whole4-150")
    case.offer(case.start + 100 * case.radius)
    assert (case.vector >= case.low).all()
    assert (case.vector <= case.high).all()
    assert case.value(case.vector) == case.best


def test_the_ledger_keeps_nothing_that_breaks_a_constraint():
    """The snapshot's own weights, which break the floors, are no value of a rival."""
    case = case_of("digits-floors-300")
    assert case.broken(case.start) > 0
    assert math.isinf(case.best)


@pytest.mark.parametrize("name", ["digits-floors-300", "digits-fair-400"])
def test_shares_are_broken_where_the_constraints_are(name):
    """The line search's own arithmetic of floors and gaps agrees with the one definition."""
    case = case_of(name)
    shares, rng = Shares(case), np.random.default_rng(0)
    for _ in range(30):
        vector = case.rounded(case.start + case.radius * rng.normal(size=len(case.start)))
        here = Lines(case, rng, vector)
        right = here.margin >= 1e-4
        weight, bias = case.layers(vector)[0]
        found = violations(case.spec.constraints, case.snapshot, weight.astype(np.float32), bias.astype(np.float32))
        assert (float(shares.broken(shares.matrix @ right)) > 0) == bool(found)


def test_a_line_search_finds_the_best_step_of_a_fine_scan():
    """On a count, no step of a fine scan along the same direction is better than where the search went."""
    case = case_of("digits-count-200")
    rng = np.random.default_rng(1)
    for _ in range(20):
        here = Lines(case, rng, case.start)
        direction = here.draw()
        low, high = here.reach(direction)
        scan = [case.value(case.clip(case.start + step * direction)) for step in np.linspace(low, high, 400)]
        here.try_direction(direction)
        assert here.cost <= min(scan)


@pytest.mark.parametrize("objective", ["mae", "mse", "ramp", "hinge"])
def test_slopes_of_a_network_are_those_of_differences(objective):
    """The backward pass over block and tail agrees with differences of the value."""
    snapshot, _ = tiny(5, objective, n=9, d=3)
    case = Case(snapshot, job(objective, radius=0.5), Clock())
    rng = np.random.default_rng(2)
    vector = case.start + 0.1 * rng.normal(size=len(case.start))
    trace = case.forward(vector)
    _, slope = case.slope(trace[-1])
    step = 1e-6
    expected = [
        (case.value(vector + step * unit) - case.value(vector - step * unit)) / (2 * step)
        for unit in np.eye(len(vector))
    ]
    np.testing.assert_allclose(case.backward(vector, trace, slope), expected, atol=1e-4)


def test_a_job_is_compared_by_its_worst_seed_and_a_rival_by_its_median():
    """The row takes each method's values at the asked time and leaves later ones out."""
    runs = [
        ("job", 0, [[0.5, 3.0]]),
        ("job", 1, [[0.5, 4.0]]),
        *(("recipe", s, [[0.5, 5.0 + s], [3, 0.0]]) for s in (0, 1, 2)),
    ]
    records = [
        {
            **{"snapshot": "x", "method": method, "seed": seed, "time_s": 1.0, "history": history, "start": 9.0},
            **{"kept": True, "value": history[0][1], "seconds": 1.0, "late_s": -0.3, "first_s": 0.5},
        }
        for method, seed, history in runs
    ]
    (row,) = compare(records, [1.0])
    assert (row.job, row.recipe, row.strongest_name) == (4.0, 6.0, "recipe")
    assert row.ratios[0] == pytest.approx(4 / 6)
    assert "behind in 0 of 1 rows" in table([row])


def test_without_kept_constraints_a_ratio_is_infinite_zero_or_one():
    """Nothing against something loses, something against nothing wins, nothing against nothing is even."""
    assert [ratio(math.inf, 1.0), ratio(1.0, math.inf), ratio(math.inf, math.inf), ratio(0.0, 0.0)] == [
        math.inf,
        0,
        1,
        1,
    ]


def test_jobs_and_rivals_take_turns():
    """No method runs all its times in a row while another waits."""
    assert [run.method for run in turns(["a", "b"], [1, 5], [0])] == ["job", "a", "job", "b"]
