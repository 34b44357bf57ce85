"""Which constraint on a block's weights its box alone rules out, in words: nothing has to be searched for then."""

from collections.abc import Callable, Sequence

import numpy as np

from shared.constraints import selected
from shared.contracts import Constraint
from solver_service.milp.core.problem import Mask, Problem
from solver_service.milp.formulation.constraints.on_weights import never_zero
from solver_service.milp.rounding.snapping import grid_range, level_choices

ALONE = "constraints.{index} ({type}) cannot be met in this region: {reason}"
TOGETHER = "the constraints cannot be met together in this region; each of them can be met alone: {reason}"


def impossible(constraints: Sequence[Constraint], box_under: Callable[[Sequence[Constraint]], Problem]) -> list[str]:
    """Notes on the constraints that no weights in the box can keep; empty where a look at the box tells of none.

    `box_under` gives the block's box under some of the constraints. Those of samples are not looked at.
    """
    notes = []
    for index, constraint in enumerate(constraints):
        reason = _reason(box_under([constraint]), constraint)
        if reason:
            notes.append(ALONE.format(index=index, type=constraint.type, reason=reason))
    if notes or len(constraints) < 2:
        return notes
    box = box_under(constraints)
    joint = (_reason(box, constraint) for constraint in constraints)
    return [TOGETHER.format(reason=reason) for reason in joint if reason][:1]


def _reason(box: Problem, constraint: Constraint) -> str | None:
    """Why a constraint cannot be met in the box under all the constraints that the box knows."""
    match constraint.type:
        case "nonnegative" | "monotone":
            own, reach = box.snapshot.weight.astype(np.float64), box.reach[:, :-1]
            stuck = (own + reach < box.floor[:, :-1]) | (own - reach > box.ceiling[:, :-1])
            return f"weight {_place(stuck)} cannot reach 0" if stuck.any() else None
        case "grid":
            steps, low, high = grid_range(box)
            stuck = (steps > 0) & (low > high) & selected(constraint, low.shape)
            reason = f"no multiple of {constraint.value:g} is within reach of weight {_place(stuck)}"
            return reason if stuck.any() else None
        case "levels":
            return _off_levels(box)
        case "max_nonzero":
            stay = int((selected(constraint, box.snapshot.weight.shape) & never_zero(box)).sum())
            return f"{stay} of the weights cannot reach 0" if stay > constraint.value else None
    return None


def _off_levels(box: Problem) -> str | None:
    for choice in level_choices(box):
        stuck = choice.chosen.copy()
        stuck[choice.chosen] = ~choice.allowed.any(axis=1)
        if stuck.any():
            return f"none of its levels is within reach of weight {_place(stuck)}"
    return None


def _place(found: Mask) -> str:
    """The first weight that is marked, as `[unit, column]`."""
    if not found.any():
        return ""
    unit, column = np.argwhere(found)[0]
    return f"[{unit}, {column}]"
