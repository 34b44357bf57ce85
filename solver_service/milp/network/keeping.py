"""What a job's constraints ask of a block behind which there is a tail: signs, zeros and grids of its weights, shares.

Weights are made to fit where that is a matter of rounding; a share of right samples is measured, and only weights that
have it are ever taken.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shared.constraints import (
    ON_SAMPLES,
    asked_classes,
    called,
    floors,
    gap_groups,
    movement_cost,
    movement_prices,
    selected,
    share,
    violations,
)
from shared.contracts import Constraint, JobSpec
from shared.objectives import EPSILON, class_scores, label_margins, sample_weights
from shared.snapshot import Snapshot, TailLayer, class_targets
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import Array, Mask, Problem, problem_of
from solver_service.milp.network.impossible import impossible
from solver_service.milp.rounding.snapping import inside, snapped

ROUNDED = ("max_nonzero", "grid", "levels")
"""Constraints that weights are rounded to."""
RAISE, FADE = 1.6, 0.9
"""How much more the samples of a set count that falls short of its share."""


class Keeper:
    """Makes weights fit a job's constraints, and says whether they do."""

    def __init__(self, snapshot: Snapshot, spec: JobSpec) -> None:
        self.constraints: tuple[Constraint, ...] = tuple(spec.constraints)
        self._snapshot, self._spec = snapshot, spec
        self.box = _box(snapshot, spec)
        self.low, self.high = self.box.center - self.box.radius, self.box.center + self.box.radius

    @property
    def rounds(self) -> bool:
        """Whether weights have to be rounded: to zeros, or to a grid."""
        return any(constraint.type in ROUNDED for constraint in self.constraints)

    @property
    def on_samples(self) -> bool:
        """Whether shares of samples are asked for."""
        return any(constraint.type in ON_SAMPLES for constraint in self.constraints)

    def fitted(self, moved: Moved) -> Moved:
        """Weights inside the limits of signs, and rounded where constraints ask for it."""
        if not self.constraints:
            return moved
        signed = np.clip(moved.weight, self.box.floor[:, :-1], self.box.ceiling[:, :-1]).astype(np.float32)
        weight = np.where(inside(self.box, signed), signed, moved.weight)
        return replace(moved, weight=snapped(self.box, weight))

    def impossible(self) -> list[str]:
        """Notes on why no weights in the box can keep the constraints on weights, where that is plain to see."""

        def box_under(some: Sequence[Constraint]) -> Problem:
            return _box(self._snapshot, self._spec.model_copy(update={"constraints": list(some)}))

        return impossible(self.constraints, box_under)

    def pins(self, moved: Moved) -> Mask:
        """Which block weights [h, d+1] rounding decides: all on a grid, and the zeros where few may be others."""
        found = np.zeros(self.box.center.shape, dtype=bool)
        for constraint in self.constraints:
            if constraint.type in ROUNDED:
                chosen = selected(constraint, moved.weight.shape)
                found[:, :-1] |= chosen & (moved.weight == 0) if constraint.type == "max_nonzero" else chosen
        return found

    def keeps(self, moved: Moved, tail: tuple[TailLayer, ...]) -> bool:
        """Whether float32 weights keep all constraints."""
        return not (self.constraints and violations(self.constraints, self._snapshot, moved.weight, moved.bias, tail))

    def price(self, moved: Moved) -> float:
        """What the movement of the block costs on top of the objective."""
        return movement_cost(self.constraints, self._snapshot, moved.weight) if self.constraints else 0.0

    def prices(self, weights: int) -> Array | None:
        """What a unit of movement of each of the first so many weights of a step costs; None where nothing does."""
        if not any(constraint.type == "movement_cost" for constraint in self.constraints):
            return None
        block = np.zeros(self.box.center.shape)
        block[:, :-1] = movement_prices(self.constraints, self._snapshot.weight.shape)
        found = np.zeros(weights)
        found[: block.size] = block.ravel()
        return found

    def shortfall(self, outputs: Array) -> float:
        """By how much outputs [N, K] miss the shares that are asked for, summed."""
        return sum(max(0.0, lack) for lack, _ in self._lacks(outputs))

    def importance(self, outputs: Array, before: Array) -> Array:
        """Weights of samples [N], raised for those of sets that fall short at given outputs [N, K]."""
        # What was raised before fades, so that two sets that pull against each other come to rest.
        found = before**FADE
        for lack, members in self._lacks(outputs):
            if lack > 0:
                found[members] *= RAISE
        return np.asarray(found / found.mean())

    def _lacks(self, outputs: Array) -> list[tuple[float, Mask]]:
        """How much each set of samples lacks, and the members [N] to raise: of a gap, the group of the lowest rate."""
        snapshot, found = self._snapshot, []
        weights, right = sample_weights(snapshot), label_margins(snapshot, outputs)[:, 0] >= EPSILON
        for constraint in self.constraints:
            match constraint.type:
                case "min_accuracy" | "recall_floor":
                    for members in floors(constraint, snapshot):
                        found.append((constraint.value - share(weights, members, right), members))
                case "group_rate_gap":
                    groups = gap_groups(constraint, snapshot)
                    rates = [share(weights, members, right) for members in groups]
                    found.append((max(rates) - min(rates) - constraint.value, groups[int(np.argmin(rates))]))
                case "precision_floor":
                    for number in asked_classes(constraint, snapshot):
                        own = class_targets(snapshot) == number
                        wrongly = ~own & called(class_scores(snapshot, outputs), number)
                        true, false = weights[own & right].sum(), weights[wrongly].sum()
                        precision = float(true / (true + false)) if false > 0 else 1.0
                        found.append((constraint.value - precision, wrongly))
        return found


def _box(snapshot: Snapshot, spec: JobSpec) -> Problem:
    """The block alone, as a layer whose outputs are its pre-activations: its box, cut by the limits of signs."""
    alone = Snapshot(
        task="regression",
        inputs=snapshot.inputs[:1],
        targets=np.zeros((1, len(snapshot.weight)), np.float32),
        weight=snapshot.weight,
        bias=snapshot.bias,
        radius=snapshot.radius,
        bias_radius=snapshot.bias_radius,
    )
    on_weights = [constraint for constraint in spec.constraints if constraint.type not in ON_SAMPLES]
    return problem_of(alone, spec.model_copy(update={"objective": "mse", "constraints": on_weights}))
