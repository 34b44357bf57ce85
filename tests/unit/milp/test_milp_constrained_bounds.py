"""Dual bounds that know the constraints: never above the optimum by exhaustive search, with any duals and blocks."""

import numpy as np
import pytest
from drawn_jobs import ON_WEIGHTS, constraint
from milp_cases import job, tiny
from oracle import optimum

from shared.snapshot import Snapshot
from solver_service.milp.bounds.block_bound import block_value, raise_by_blocks, split
from solver_service.milp.bounds.pair_relaxation import PairRelaxation
from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.final_layer.bounding import believed
from solver_service.milp.formulation.compact import NO_CUTS
from solver_service.milp.formulation.conflicts import pair_cuts
from solver_service.milp.formulation.constraints.constrained_model import constrained_model
from solver_service.milp.presolve.screening import screen
from solver_service.milp.rounding.into_box import change_of
from solver_service.milp.solve import solve

KINDS = ("min_accuracy", "recall_floor", "group_rate_gap", "precision_floor", *ON_WEIGHTS)
OBJECTIVES = ("zero_one", "ramp", "worst_class")
SLIP = 1e-6
"""How far a bound may be off for rounding."""


def drawn(seed, objective, kind):
    """A tiny job with one constraint of a kind, and two groups."""
    snapshot, _ = tiny(seed, "zero_one" if objective == "worst_class" else objective, n=4)
    names = ("task", "inputs", "targets", "weight", "bias")
    snapshot = Snapshot(**{name: getattr(snapshot, name) for name in names}, group=np.arange(4) % 2)
    asked = constraint(np.random.default_rng(seed), kind, snapshot, radius=0.6)
    return snapshot, job(objective, radius=0.6, constraints=[asked])


def relaxed(snapshot, spec):
    """The problem, its model, and the relaxation of that, solved to the end; None when nothing is open or feasible."""
    problem = problem_of(snapshot, spec)
    screened = screen(requirements_of(problem))
    if not screened.requirements.rows:
        return None
    built = constrained_model(problem, screened, NO_CUTS, problem.constraints)
    cuts = pair_cuts(problem, screened.requirements)
    relaxation = PairRelaxation(problem, screened.requirements, cuts, constant=screened.cost, extension=built.extension)
    # It is stopped by nobody: an end before the end means that no point keeps the constraints.
    solved = relaxation.run(lambda: False, lambda _: None)
    assert solved or optimum(snapshot, spec) is None
    return (problem, built, relaxation) if solved else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_bound_exceeds_the_optimum(objective, kind):
    """The relaxation's, the blocks', and that of any duals over any blocks."""
    for seed in range(4):
        snapshot, spec = drawn(seed, objective, kind)
        found, best = relaxed(snapshot, spec), optimum(snapshot, spec)
        if found is None or best is None:
            continue
        problem, _, relaxation = found
        raise_by_blocks(relaxation, lambda: False, lambda _: None, size=2)
        assert believed(problem, relaxation.bound) <= best + SLIP * (1 + best)
        assert any_split(relaxation, np.random.default_rng(seed)) <= best + SLIP * (1 + best)


def any_split(relaxation, rng):
    """What random duals prove with random blocks."""
    relaxation.duals = rng.exponential(0.5, relaxation.rows.size)
    members = rng.permutation(relaxation.requirements.groups)
    rest, parts = split(relaxation, np.array_split(members, int(rng.integers(1, members.size + 1))))
    values = (block_value(relaxation, block, 10.0, lambda: False)[0] for block in parts)
    return relaxation.model.constant + relaxation.unit * (rest + sum(values))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_was_learnt_cuts_no_feasible_change_off(objective, kind):
    """Every change that keeps the constraints extends to a point that keeps the rows for branching, too."""
    seen = 0
    for seed in range(4):
        snapshot, spec = drawn(seed, objective, kind)
        found = relaxed(snapshot, spec)
        if found is None:
            continue
        problem, built, relaxation = found
        raise_by_blocks(relaxation, lambda: False, lambda _: None, size=2)
        learnt = relaxation.learnt
        whole = built.plus(learnt.matrix, learnt.lower)
        assert whole.model.rows == whole.strict.size == whole.switch.size == whole.on.size == whole.tying.size
        # Of random changes none is on a grid: the job's own answer is.
        answer = solve(snapshot, spec)
        own = change_of(problem, answer.weight, answer.bias)
        for change in (own, *np.random.default_rng(seed).uniform(-1, 1, (100, *problem.radius.shape))):
            point, slip = whole.complete(problem, change), SLIP if change is own else 1e-9  # float32 weights are near
            if (built.model.matrix @ point >= built.model.row_lower - slip).all():
                seen += 1
                assert (whole.model.matrix @ point >= whole.model.row_lower - slip).all()
    assert seen > 0
