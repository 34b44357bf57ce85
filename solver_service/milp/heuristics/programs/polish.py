"""From a solver's solution to float32 weights that keep all constraints: integers fixed, room made, an LP for the rest.

The counterpart of `finish` for models with constraints. A solver's solution sits on the line between right and wrong,
and its zeros and multiples are so up to a tolerance only.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from shared.snapshot import FloatArray
from solver_service.milp.backends.highs import LinearProgram, LpStatus
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.formulation.constraints.constrained_model import ConstrainedModel
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.rounding.into_box import rounding_errors, weights_of

MOST_ROOM, ROUNDINGS, ROW_ROOM = 1e-3, 16, 1e-5
"""How far off the line a sample is pushed, at most: in scores, or where this is more in what rounding moves a score, or
in units of the model's rows, which is what a solver's tolerance is in."""
TOLERANCE = 1e-6
BROKEN = 1e-8
AT_ONCE = 500


def polish(
    problem: Problem,
    built: ConstrainedModel,
    incumbents: Incumbents,
    solution: Array,
    should_stop: Callable[[], bool],
) -> None:
    """Offer the weights with the most room that a solution's integers allow, and then the best of those with some."""
    offer = _Offer(problem, built, incumbents, solution)
    lower, upper = _fixed(problem, built, solution, offer)
    # The room is a column in units of the most that is asked for, so that no score's own unit hides it.
    most = max(MOST_ROOM, ROUNDINGS * offer.rounding, ROW_ROOM * built.largest_scale)
    matrix, needs = _with_room(built, solution, most)
    room = 0.0
    if built.switched_on(solution).any():
        # Columns of the model and one for the room: min -room.
        most_room = np.append(np.zeros(lower.size), -1.0)
        found = _minimise(most_room, matrix, needs, np.append(lower, -1.0), np.append(upper, 1.0), should_stop)
        if found is None:
            return
        offer(found)
        room = float(found[-1])  # in units of `most`
    if not (built.model.objective[~built.model.integer] != 0).any():
        return
    cost = np.append(built.model.objective, 0.0)
    # As little room as rounding asks for costs the least; the LP's own tolerance may ask for more.
    for wanted in (2 * offer.rounding, TOLERANCE + 4 * offer.rounding):
        some = min(room / 2, wanted / most)
        found = _minimise(cost, matrix, needs, np.append(lower, some), np.append(upper, some), should_stop)
        if found is None or offer(found) <= built.model.constant + float(cost @ found) + TOLERANCE:
            return


class _Offer:
    """Offers the change in a solution, with the weights that integers decide set exactly."""

    def __init__(self, problem: Problem, built: ConstrainedModel, incumbents: Incumbents, solution: Array) -> None:
        self._problem, self._incumbents = problem, incumbents
        self.pins = built.pins.read(solution)
        self.rounding = self._rounding(*self._weights(solution))

    def __call__(self, solution: Array) -> float:
        weight, bias = self._weights(solution)
        self.rounding = self._rounding(weight, bias)
        return self._incumbents.offer_weights(weight, bias)

    def _weights(self, solution: Array) -> tuple[FloatArray, FloatArray | None]:
        change = np.clip(solution[: self._problem.columns], -1.0, 1.0).reshape(self._problem.radius.shape)
        weight, bias = weights_of(self._problem, change)
        return np.where(np.isnan(self.pins), weight, self.pins), bias

    def _rounding(self, weight: FloatArray, bias: FloatArray | None) -> float:
        """How far rounding these weights to float32 can have moved a score."""
        return float(rounding_errors(self._problem, weight, bias).max(initial=0.0))


def _fixed(problem: Problem, built: ConstrainedModel, solution: Array, offer: _Offer) -> tuple[Array, Array]:
    """The columns' bounds, with all integers and the weights that they decide fixed."""
    lower, upper = built.model.lower.copy(), built.model.upper.copy()
    whole = built.model.integer
    # Integers as they are, up to the solver's tolerance.
    lower[whole] = upper[whole] = np.clip(np.rint(solution[whole]), lower[whole], upper[whole])
    radius = problem.radius[:, :-1]
    pinned = ~np.isnan(offer.pins) & (radius > 0)
    unit, column = np.nonzero(pinned)
    # The columns of pinned entries of x [h, d+1], laid flat.
    places = unit * problem.radius.shape[1] + column
    lower[places] = upper[places] = (offer.pins - problem.center[:, :-1])[pinned] / radius[pinned]
    return lower, upper


def _with_room(built: ConstrainedModel, solution: Array, unit: float) -> tuple[sp.csr_array, Array]:
    """The rows that are left to an LP, with a last column for the room that strict rows keep, in units of `unit`."""
    # A x - strict unit room >= v on the strict rows that hold at these binaries.
    room = np.where(built.switched_on(solution), -built.strict * unit, 0.0)
    left = ~built.tying
    matrix = sp.hstack([built.model.matrix, sp.csr_array(room[:, None])], format="csr")
    return sp.csr_array(matrix[left]), built.model.row_lower[left]


def _minimise(
    cost: Array, matrix: sp.csr_array, needs: Array, lower: Array, upper: Array, should_stop: Callable[[], bool]
) -> Array | None:
    """The LP's optimum, rows added as they are broken; None when there is none, or no time."""
    program = LinearProgram(cost, lower, upper, should_stop=should_stop)
    present = np.zeros(needs.size, dtype=bool)
    while not should_stop():
        found = program.run()
        if found.status is not LpStatus.OPTIMAL:
            return None
        broken = np.where(present, 0.0, needs - matrix @ found.columns)
        worst = np.argsort(-broken, kind="stable")[:AT_ONCE]
        worst = worst[broken[worst] > BROKEN]
        if worst.size == 0:
            return found.columns
        program.add_rows(sp.csr_array(matrix[worst]), needs[worst])
        present[worst] = True
    return None
