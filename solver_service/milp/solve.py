"""One job from snapshot to result: checked, and handed to the recipe that fits; Celery and Redis are out of sight."""

from dataclasses import replace

from shared.contracts import JobSpec, gap
from shared.snapshot import Snapshot
from solver_service.milp.core.control import Control
from solver_service.milp.core.moved import Moved, value_of
from solver_service.milp.core.solution import Solution
from solver_service.milp.core.units import brought, incumbent_back, scaled, solution_back, units_of
from solver_service.milp.final_layer.solve import solve_final_layer
from solver_service.milp.network.solve import solve_block
from solver_service.milp.support import check_supported
from solver_service.milp.tiers import far_apart, solve_by_tiers

__all__ = ["Solution", "solve"]


def solve(snapshot: Snapshot, spec: JobSpec, control: Control | None = None, *, start: Moved | None = None) -> Solution:
    """Find better weights for the snapshot's layer inside its box, and prove how much better they could be.

    `start` is another solution to begin from, such as a lost attempt's incumbent; it is clipped into the box. The
    result is never worse than the snapshot, the start, or any incumbent that was reported; only a snapshot that breaks
    the spec's constraints gives way to whatever keeps them. Raises SpecError for a spec that does not fit, SolverError
    when a solver breaks.
    """
    control = control or Control()
    spec.check(snapshot)
    check_supported(snapshot, spec)
    if far_apart(snapshot):
        return solve_by_tiers(snapshot, spec, control, start, _in_own_units)
    return _in_own_units(snapshot, spec, control, start)


def _in_own_units(snapshot: Snapshot, spec: JobSpec, control: Control, start: Moved | None) -> Solution:
    """Solve in units in which everything is near to 1."""
    units = units_of(snapshot, spec)
    if units.plain:
        return _solve(snapshot, spec, control, start)
    there, layers = scaled(snapshot, spec, units), len(snapshot.tail)
    listener = control.on_incumbent
    within = control.heard_by(lambda found: listener(incumbent_back(found, units, tail=layers)))
    begin = None if start is None else brought(start, units, tail=layers)
    solution = solution_back(_solve(*there, within, begin), units, tail=layers)
    return _recounted(solution, snapshot, spec)


def _recounted(solution: Solution, snapshot: Snapshot, spec: JobSpec) -> Solution:
    """The values of the weights that are returned, where prices of movement had to be lowered on the way."""
    if not any(one.type == "movement_cost" for one in spec.constraints):
        return solution
    report, final = solution.result.objective, value_of(snapshot, spec, solution.moved)
    if final == report.final:
        return solution
    bound = min(report.bound, final)
    values = {"final": final, "bound": bound, "gap": gap(final, bound)}
    return replace(solution, result=solution.result.model_copy(update={"objective": report.model_copy(update=values)}))


def _solve(snapshot: Snapshot, spec: JobSpec, control: Control, start: Moved | None) -> Solution:
    recipe = solve_final_layer if snapshot.is_final_identity else solve_block
    return recipe(snapshot, spec, control, start)
