"""Which constraint cannot be met: by a look at the box where that is enough, and else by a solver."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.constraints import ON_SAMPLES, grid_steps, selected, sign_limits
from shared.contracts import Constraint, JobSpec, SolveStatus
from shared.snapshot import Snapshot
from solver_service.milp.backends.outcome import MilpOptions
from solver_service.milp.backends.registry import milp_solver
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Problem, problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.formulation.compact import NO_CUTS
from solver_service.milp.formulation.constraints.constrained_model import constrained_model
from solver_service.milp.formulation.constraints.on_samples import Shares, shares_of
from solver_service.milp.formulation.constraints.on_weights import never_zero
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.presolve.screening import screen
from solver_service.milp.rounding.snapping import grid_range, level_choices

TOGETHER = "the constraints cannot be met together in this region; each of them can be met alone"
UNKNOWN = "the constraints cannot be met together in this region; the time was too short to try each of them alone"
BLAME_SHARE = 0.8
"""How much of the time that is left goes into naming the constraint at fault."""


def contradictions(snapshot: Snapshot, spec: JobSpec, problem: Problem, *, shares: bool = True) -> list[str]:
    """What the box alone proves impossible, as notes; empty when a solver has to look.

    Without `shares` of samples, of which every score's range has to be known, where there is no time for that.
    """
    notes, asked = [], [one for one in spec.constraints if shares or one.type not in ON_SAMPLES]
    for index, constraint in enumerate(spec.constraints):
        if constraint not in asked:
            continue
        reason = _impossible(problem_of(snapshot, _only(spec, constraint)), constraint)
        if reason:
            notes.append(f"{_name(index, constraint)} cannot be met in this region: {reason}")
    if notes:
        return notes
    joint = (_impossible(problem, constraint) for constraint in asked)
    return [f"{TOGETHER}: {reason}" for reason in joint if reason][:1]


def blame(snapshot: Snapshot, spec: JobSpec, budget: Budget) -> list[str]:
    """Try each constraint of an infeasible job alone, as far as the time goes, and name those that cannot be met."""
    if len(spec.constraints) == 1:
        return [f"{_name(0, spec.constraints[0])} cannot be met in this region"]
    budget, notes, certain = budget.share(BLAME_SHARE), [], True
    for index, constraint in enumerate(spec.constraints):
        if constraint.type not in (*ON_SAMPLES, "max_nonzero"):
            continue  # the look at the box has settled these
        problem = problem_of(snapshot, _only(spec, constraint))
        found = _feasible(problem, spec, constraint, budget)
        if found is False:
            notes.append(f"{_name(index, constraint)} cannot be met in this region")
        certain = certain and found is not None
    return notes or [TOGETHER if certain else UNKNOWN]


def _name(index: int, constraint: Constraint) -> str:
    return f"constraints.{index} ({constraint.type})"


def _only(spec: JobSpec, constraint: Constraint) -> JobSpec:
    return spec.model_copy(update={"constraints": [constraint]})


def _feasible(problem: Problem, spec: JobSpec, constraint: Constraint, budget: Budget) -> bool | None:
    """Whether any weights in the box keep this constraint; None when it could not be told."""
    if budget.over:
        return None
    model: LinearModel = constrained_model(problem, screen(requirements_of(problem)), NO_CUTS, [constraint]).model
    options = MilpOptions(
        time_s=max(0.0, budget.until - budget.control.elapsed),
        memory_mb=spec.limits.memory_mb,
        seed=spec.solver.seed,
        find=True,
    )
    aimless = replace(model, objective=np.zeros(model.columns))
    outcome = milp_solver(spec.solver.backend)(aimless, options, budget.control, lambda *_: None, None)
    known = {SolveStatus.OPTIMAL: True, SolveStatus.GAP_REACHED: True, SolveStatus.INFEASIBLE: False}
    return known.get(outcome.status)


def _impossible(problem: Problem, constraint: Constraint) -> str | None:
    """Why a constraint cannot be met in the problem's box, as far as one look tells."""
    match constraint.type:
        case "nonnegative" | "monotone":
            return _wrong_signs(problem, constraint)
        case "grid":
            return _off_grid(problem, constraint)
        case "max_nonzero":
            chosen = selected(constraint, problem.snapshot.weight.shape)
            stay = int((chosen & never_zero(problem)).sum())
            return f"{stay} of the weights cannot reach 0" if stay > constraint.value else None
        case "levels":
            return _off_levels(problem)
        case "min_accuracy" | "recall_floor" | "group_rate_gap" | "precision_floor":
            shares = shares_of(problem, [constraint])
            return None if shares is None else _lost_shares(problem, shares)
    return None


def _wrong_signs(problem: Problem, constraint: Constraint) -> str | None:
    weight, reach = problem.snapshot.weight.astype(np.float64), problem.reach[:, :-1]
    low, high = sign_limits([constraint], weight.shape)
    stuck = np.argwhere((weight + reach < low) | (weight - reach > high))
    return f"weight {_place(stuck)} cannot reach 0" if stuck.size else None


def _off_grid(problem: Problem, constraint: Constraint) -> str | None:
    _, low, high = grid_range(problem)
    steps = grid_steps([constraint], low.shape)
    stuck = np.argwhere((steps > 0) & (low > high))
    return f"no multiple of {constraint.value:g} is within reach of weight {_place(stuck)}" if stuck.size else None


def _off_levels(problem: Problem) -> str | None:
    for choice in level_choices(problem):
        stuck = np.argwhere(choice.chosen)[~choice.allowed.any(axis=1)]
        if stuck.size:
            return f"none of its levels is within reach of weight {_place(stuck)}"
    return None


def _place(found: NDArray[np.signedinteger]) -> str:
    unit, column = found[0]
    return f"[{unit}, {column}]"


def _lost_shares(problem: Problem, shares: Shares) -> str | None:
    lost, cost = shares.screened.lost, problem.weights
    for floor in shares.floors:
        wrong = float(cost[lost & floor.members].sum())
        if wrong > floor.most:
            total = float(cost[floor.members].sum())
            return f"samples of weight {wrong:g} of {total:g} are wrong everywhere in it"
    open_samples = np.zeros(cost.size, dtype=bool)
    open_samples[shares.screened.group_of] = True
    for balance in shares.balances:
        least, most = [], []
        for members in (balance.first, balance.second):
            total = cost[members].sum()
            least.append(cost[members & lost].sum() / total)
            most.append(cost[members & (lost | open_samples)].sum() / total)
        apart = max(least[0] - most[1], least[1] - most[0])
        if apart > balance.most + 1e-6:
            return f"the groups' rates are at least {apart:.3g} apart everywhere in it"
    return None
