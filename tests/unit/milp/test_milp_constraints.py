"""Jobs with extra constraints against exhaustive search, and what they say when a constraint cannot be met."""

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from drawn_jobs import ON_WEIGHTS, constraint
from exactness import compare, instance
from milp_cases import job, tiny

from shared.constraints import violations
from shared.contracts import Constraint, SolveStatus
from shared.snapshot import Snapshot
from solver_service.milp.core.control import Control
from solver_service.milp.final_layer import under_constraints
from solver_service.milp.solve import solve

ON_SAMPLES = ("min_accuracy", "recall_floor", "group_rate_gap", "precision_floor")
CLASSIFICATION = ("zero_one", "ramp", "hinge")
PAIRS = [
    *((objective, kind) for objective in CLASSIFICATION for kind in (*ON_SAMPLES, *ON_WEIGHTS)),
    *((objective, kind) for objective in ("mae", "max_error", "outliers") for kind in ON_WEIGHTS),
    *(("mse", kind) for kind in ON_WEIGHTS),
]


def _case(seed, objective, kind, **shape):
    """A tiny job with one constraint of a kind, and two groups."""
    snapshot, _ = tiny(seed, objective, n=4, **shape)
    snapshot = Snapshot(**{**_fields(snapshot), "group": np.arange(4) % 2})
    asked = constraint(np.random.default_rng(seed), kind, snapshot, radius=0.6)
    return snapshot, job(objective, radius=0.6, constraints=[asked])


def _fields(snapshot):
    names = ("task", "inputs", "targets", "weight", "bias", "offset", "sample_weight", "radius", "bias_radius")
    return {name: getattr(snapshot, name) for name in names}


def _feasible(snapshot, spec, solution):
    return not violations(spec.constraints, snapshot, solution.weight, solution.bias)


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_random_jobs_agree_with_exhaustive_search(first):
    """200 of the nightly run's instances: `python benchmarks/exactness.py --instances 10000 --seed 1`."""
    verdicts = {number: compare(*instance(2, number)) for number in range(first, first + 20)}
    assert {number: found for number, found in verdicts.items() if found.wrong or not found.proven} == {}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("objective", "kind"), PAIRS)
def test_every_constraint_agrees_with_exhaustive_search_under_every_objective(objective, kind, seed):
    """The optimum, or the proof that there is none."""
    verdict = compare(*_case(seed, objective, kind))
    assert (verdict.wrong, verdict.proven) == (None, True)


@pytest.mark.parametrize("kind", [*ON_SAMPLES, *ON_WEIGHTS])
def test_highs_agrees(kind):
    """The second opinion takes integer columns and constraints, too."""
    snapshot, spec = _case(3, "zero_one", kind)
    solver = spec.solver.model_copy(update={"backend": "highs"})
    verdict = compare(snapshot, spec.model_copy(update={"solver": solver}))
    assert (verdict.wrong, verdict.proven) == (None, True)


def test_a_start_that_breaks_a_constraint_gives_way_to_worse_weights_that_keep_it():
    """The objective may rise: being allowed counts first, and the notes say so."""
    snapshot, _ = tiny(0, "mae", n=5)
    spec = job("mae", radius=3.0, constraints=[{"type": "max_nonzero", "value": 0}])
    solution = solve(Snapshot(**{**_fields(snapshot), "targets": _fit(snapshot)}), spec)
    report = solution.result.objective
    assert report.final > report.start
    assert solution.result.improved
    assert (solution.weight == 0).all()
    assert report.bound <= report.final
    assert any("breaks constraints.0 (max_nonzero)" in note for note in solution.result.notes)


def _fit(snapshot):
    """Targets that the snapshot's own weights meet."""
    return (snapshot.inputs @ snapshot.weight.T + snapshot.bias).astype(np.float32)


def test_only_weights_that_keep_the_constraints_are_ever_reported():
    """Every incumbent on the way is one that a trainer may use."""
    snapshot, seen = tiny(4, "ramp", n=40, d=4)[0], []
    spec = job(
        "ramp", time_s=3, constraints=[{"type": "min_accuracy", "value": 0.5}, {"type": "max_nonzero", "value": 9}]
    )
    solution = solve(snapshot, spec, Control(seen.append))
    assert seen
    assert all(not violations(spec.constraints, snapshot, found.moved.weight, found.moved.bias) for found in seen)
    values = [found.objective for found in seen]
    assert values == sorted(set(values), reverse=True)
    assert solution.result.objective.final == values[-1]


def test_zeros_are_zeros_and_multiples_are_multiples():
    """In float32, to the last bit."""
    snapshot, _ = tiny(6, "hinge", n=12, d=4)
    asked = [{"type": "max_nonzero", "value": 5}, {"type": "grid", "value": 0.1, "classes": [0]}]
    solution = solve(snapshot, job("hinge", radius=1.0, constraints=asked))
    assert solution.result.status is SolveStatus.OPTIMAL
    assert np.count_nonzero(solution.weight) <= 5
    multiples = np.round(solution.weight[0].astype(np.float64) / 0.1)
    assert (solution.weight[0] == (multiples * 0.1).astype(np.float32)).all()


def test_screened_samples_still_count():
    """A radius of nearly nothing decides every sample; accuracy is that of all of them."""
    snapshot, _ = tiny(1, "ramp", n=20)
    spec = job("ramp", radius=1e-6, constraints=[{"type": "min_accuracy", "value": 0.95}])
    solution = solve(snapshot, spec)
    assert solution.result.status is SolveStatus.INFEASIBLE
    assert "constraints.0 (min_accuracy) cannot be met" in solution.result.notes[0]


def test_movement_is_paid_for():
    """A price above any gain keeps the weights where they are; the values say what they include."""
    snapshot, _ = tiny(2, "hinge", n=8)
    still = solve(snapshot, job("hinge", constraints=[{"type": "movement_cost", "value": 1e4}]))
    assert (still.weight == snapshot.weight).all()
    spec = job("hinge", constraints=[{"type": "movement_cost", "value": 0.5}])
    moved = solve(snapshot, spec)
    assert moved.result.objective.final == spec.value(snapshot, moved.weight, moved.bias)
    assert any("cost of movement" in note for note in moved.result.notes)


INFEASIBLE = [
    ({"type": "nonnegative", "value": 0}, "weight [0, 1] cannot reach 0"),
    ({"type": "monotone", "value": -1}, "weight [0, 0] cannot reach 0"),
    ({"type": "max_nonzero", "value": 3}, "4 of the weights cannot reach 0"),
    ({"type": "grid", "value": 0.7}, "no multiple of 0.7 is within reach of weight [0, 0]"),
    ({"type": "min_accuracy", "value": 0.8}, "samples of weight 1 of 4 are wrong everywhere"),
    ({"type": "recall_floor", "value": 0.8, "classes": [1]}, "samples of weight 1 of 2 are wrong everywhere"),
    ({"type": "group_rate_gap", "value": 0.4}, "the groups' rates are at least 0.5 apart"),
]


def _stuck():
    """Four samples of two classes, of which the last is wrong, and a layer that can hardly move."""
    return Snapshot(
        task="classification",
        inputs=np.float32([[1, 0], [1, 0], [0, 1], [1, 0]]),
        weight=np.float32([[1, -1], [-1, 1]]),
        targets=np.array([0, 0, 1, 1]),
        group=np.array([0, 0, 1, 1]),
    )


@pytest.mark.parametrize(
    ("asked", "reason"), INFEASIBLE, ids=lambda case: case["type"] if isinstance(case, dict) else ""
)
def test_a_constraint_that_the_box_rules_out_is_named(asked, reason):
    """One look is enough; the weights stay, and the note says which constraint and why."""
    harmless = {"type": "movement_cost", "value": 1}
    solution = solve(_stuck(), job("zero_one", radius=0.1, constraints=[harmless, asked]))
    assert solution.result.status is SolveStatus.INFEASIBLE
    assert not solution.result.improved
    assert (solution.weight == _stuck().weight).all()
    assert f"constraints.1 ({asked['type']}) cannot be met in this region" in solution.result.notes[0]
    assert reason in solution.result.notes[0]
    assert solution.result.objective.final == solution.result.objective.start


def _clash():
    """Two samples in the same place, of different classes: one of them is always wrong."""
    return Snapshot(
        task="classification",
        inputs=np.float32([[1, 0.5], [1, 0.5], [0.2, 1]]),
        weight=np.float32([[0.1, 0.2], [0.3, 0.1]]),
        targets=np.array([0, 1, 1]),
    )


@pytest.mark.parametrize("objective", CLASSIFICATION)
def test_a_solver_names_the_constraint_that_the_box_does_not(objective):
    """Each constraint is tried alone."""
    asked = [{"type": "max_nonzero", "value": 2}, {"type": "min_accuracy", "value": 1.0}]
    result = solve(_clash(), job(objective, radius=1.0, constraints=asked)).result
    assert (result.status, result.improved) == (SolveStatus.INFEASIBLE, False)
    assert result.notes[0] == "constraints.1 (min_accuracy) cannot be met in this region"


def test_constraints_that_clash_only_together_say_so():
    """Class 0 alone can be had, and so can class 1."""
    asked = [{"type": "recall_floor", "value": 1.0, "classes": [number]} for number in (0, 1)]
    result = solve(_clash(), job("ramp", radius=1.0, constraints=asked)).result
    assert result.status is SolveStatus.INFEASIBLE
    assert "together" in result.notes[0]


def test_nothing_found_in_time_is_not_called_infeasible(monkeypatch):
    """The weights are the snapshot's, and the note says that they break the constraint."""
    monkeypatch.setattr(under_constraints, "milp_solver", lambda _: _finds_nothing)
    snapshot, _ = tiny(0, "zero_one", n=9)
    spec = job(
        "zero_one", radius=0.5, constraints=[{"type": "grid", "value": 0.4}, {"type": "min_accuracy", "value": 0.99}]
    )
    result = solve(snapshot, spec).result
    assert (result.status, result.improved) == (SolveStatus.TIME_LIMIT, False)
    assert any("no weights that keep all constraints were found" in note for note in result.notes)
    assert any("the snapshot breaks constraints.0 (grid)" in note for note in result.notes)


def _finds_nothing(*_):
    return under_constraints.Outcome(
        SolveStatus.TIME_LIMIT, 0.0, nodes=0, build_s=0, presolve_s=0, solve_s=0, start_accepted=True
    )


def test_a_stop_keeps_what_was_found():
    """A job under constraints is interrupted like any other."""
    snapshot, _ = tiny(0, "zero_one", n=200, d=8, h=4)
    control, seen = Control(), []
    control.on_incumbent = lambda found: (seen.append(found), control.stop())
    spec = job("zero_one", time_s=60, constraints=[{"type": "grid", "value": 0.01}])
    solution = solve(snapshot, spec, control)
    assert solution.result.status is SolveStatus.INTERRUPTED
    assert seen
    assert solution.result.objective.final == seen[-1].objective
    assert _feasible(snapshot, spec, solution)
    assert control.elapsed < 20


def test_a_stop_before_the_start_says_that_the_snapshot_breaks_a_constraint():
    """Nothing was searched, so nothing is claimed."""
    snapshot, control = tiny(0, "ramp", n=30)[0], Control()
    control.stop()
    result = solve(
        snapshot, job("ramp", radius=1.0, constraints=[{"type": "min_accuracy", "value": 0.6}]), control
    ).result
    assert (result.status, result.improved, result.changed_weights) == (SolveStatus.INTERRUPTED, False, 0)
    assert (result.objective.final, result.objective.bound) == (result.objective.start, 0)
    assert "the weights returned are the snapshot's own" in result.notes[0]


def test_signs_keep_every_heuristic_inside_the_smaller_box():
    """Nonnegative and monotone are limits of the box: heuristics and bounds work as without them."""
    snapshot, seen = tiny(9, "ramp", n=80, d=5)[0], []
    asked = [{"type": "nonnegative", "value": 0, "classes": [0]}, {"type": "monotone", "value": -1, "classes": [1]}]
    spec = job("ramp", radius=1.5, time_s=2, constraints=asked)
    solution = solve(snapshot, spec, Control(seen.append))
    assert all((found.moved.weight[0] >= 0).all() and (found.moved.weight[1] <= 0).all() for found in seen)
    assert len(seen) > 1
    assert solution.result.objective.bound > 0


def test_a_node_limit_makes_a_constrained_run_repeatable():
    """Same snapshot, seed and node limit: the same weights."""
    snapshot, _ = tiny(8, "ramp", n=40, d=3)
    spec = job("ramp", time_s=60, limits={"nodes": 5}, constraints=[{"type": "max_nonzero", "value": 8}])
    first, second = solve(snapshot, spec), solve(snapshot, spec)
    assert (first.weight == second.weight).all()


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "grid", "value": 1e300},
        {"type": "grid", "value": 1e-6},
        {"type": "movement_cost", "value": 1e9},
        {"type": "max_nonzero", "value": 1e300},
    ],
    ids=str,
)
@pytest.mark.parametrize("objective", ["zero_one", "ramp", "mae"])
def test_values_out_of_the_ordinary_are_taken(objective, asked):
    """Steps that only 0 fits, steps that all but anything fits, and prices that allow no movement."""
    snapshot, _ = tiny(1, objective, n=5)
    spec = job(objective, radius=4.0, time_s=5, constraints=[asked])
    solution = solve(snapshot, spec)
    assert _feasible(snapshot, spec, solution)
    assert solution.result.status is not SolveStatus.INFEASIBLE
    assert solution.result.objective.final == spec.value(snapshot, solution.weight, solution.bias)


def test_a_solver_that_gives_up_has_a_second_to_take_over():
    """SCIP has unresolved numerical troubles in an LP of this one."""
    verdict = compare(*instance(4, 2043))
    assert (verdict.wrong, verdict.proven) == (None, True)


def test_the_page_has_an_example_of_every_constraint():
    """And each is one that a spec takes."""
    page = Path(__file__).parents[3].joinpath("docs/constraints.md").read_text()
    examples = [Constraint(**json.loads(text)) for text in re.findall(r"\| `(\{.*?\})` \|", page)]
    assert [example.type for example in examples] == list(get_args(Constraint.model_fields["type"].annotation))
