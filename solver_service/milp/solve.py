"""One job from snapshot to result: checked, and handed to the recipe that fits; Celery and Redis are out of sight."""

from dataclasses import replace

from shared.contracts import JobSpec, gap
from shared.snapshot import Snapshot
from solver_service.milp.core.control import Control
from solver_service.milp.core.moved import Moved, value_of
from solver_service.milp.core.solution import Solution
from solver_service.milp.core.units import brought, incumbent_back, scaled, solution_back, units_of, value_back
from solver_service.milp.final_layer.solve import solve_final_layer
from solver_service.milp.near_zero import start_near_zero
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
    _tell_begin(snapshot, spec, control, start)
    start = start or start_near_zero(snapshot, spec, control, _by_weights)
    solution = _by_weights(snapshot, spec, control, start)
    _tell_end(solution, control)
    return solution


def _by_weights(snapshot: Snapshot, spec: JobSpec, control: Control, start: Moved | None) -> Solution:
    """By tiers where samples' weights are far apart, else at once."""
    if far_apart(snapshot):
        return solve_by_tiers(snapshot, spec, control, start, _in_own_units)
    return _in_own_units(snapshot, spec, control, start)


def _tell_begin(snapshot: Snapshot, spec: JobSpec, control: Control, start: Moved | None) -> None:
    """What the job is, in sizes alone: nothing of the data goes into a log."""
    outputs, inputs = snapshot.weight.shape
    layers = f", {len(snapshot.tail)} layers behind it" if snapshot.tail else ""
    constraints = f", {len(spec.constraints)} constraints" if spec.constraints else ""
    resumed = ", from an earlier attempt's incumbent" if start is not None else ""
    control.say(
        f"{spec.objective} over {snapshot.samples} samples, a block of {outputs} x {inputs} weights{layers}"
        f"{constraints}, {spec.limits.time_s:g} s{resumed}"
    )


def _tell_end(solution: Solution, control: Control) -> None:
    report, result = solution.result.objective, solution.result
    control.say(f"ended as {result.status.value}, from {report.start:.6g}", objective=report.final, bound=report.bound)
    for note in result.notes:
        control.say(note)


def _in_own_units(snapshot: Snapshot, spec: JobSpec, control: Control, start: Moved | None) -> Solution:
    """Solve in units in which everything is near to 1."""
    units = units_of(snapshot, spec)
    if units.plain:
        return _solve(snapshot, spec, control, start)
    there, layers = scaled(snapshot, spec, units), len(snapshot.tail)
    listener = control.on_incumbent
    if units.values:
        control.say(f"in units near to 1: values in a solver's own words are 2^{units.values} times the job's")
    within = control.heard_by(
        lambda found: listener(incumbent_back(found, units, tail=layers)), lambda value: value_back(value, units)
    )
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
