"""A convex objective in place of a count, a ramp, a worst rate or a trimmed mean: its minimum is near, and soon found.

Cross-entropy for classes and labels, Huber's loss for values. Its program has scales of its own, which columns in raw
units need, and has an end where descents on a count see nothing of samples that are far off.
"""

from dataclasses import dataclass

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.final_layer.convex.program import ConvexProgram
from solver_service.milp.final_layer.convex.smooth_losses import of_multiples, smooth_loss
from solver_service.milp.heuristics.descents.stand_in_descents import convex_of, sharpness
from solver_service.milp.heuristics.walks.mending import offer_mended
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

LOOSE = 1e-3
"""The relative gap to which it is solved."""


def stand_in(problem: Problem) -> ConvexProgram:
    """The program of the convex objective that is nearest to a problem's own."""
    convex, times = convex_of(problem), sharpness(problem)
    return ConvexProgram(convex, loss=of_multiples(smooth_loss(convex, convex.cost), times))


@dataclass(eq=False)
class StandIn:
    """A strategy: each `advance` goes on to the stand-in's minimum, and offers it; the last one ends there.

    Where a walk knows the constraints they are mended. An advance takes a `share` of the time that is left at most,
    and as much to mend.
    """

    problem: Problem
    incumbents: Incumbents
    walk: Walk | None
    share: float
    _reached: Array | None = None

    def advance(self, budget: Budget) -> bool:
        """Minimise for a part of the time; False once that is done."""
        program, soon = stand_in(self.problem), budget.share(self.share)
        start = self.incumbents.whole_change if self._reached is None else self._reached
        found = program.minimise(*program.box, start, lambda: soon.over, LOOSE)
        self._reached = found.change
        self.incumbents.offer_whole(found.change)
        if self.walk is not None and self.problem.constraints:
            offer_mended(found.change, self.walk, self.incumbents, budget.share(self.share))
        return soon.over and not budget.over
