"""What a job's constraints ask of a block behind which there is a tail: signs, zeros and grids of its weights, shares.

Weights are made to fit where that is a matter of rounding; shares of right samples are what samples are weighed for
(`weighing.py`), and only weights that have them are ever taken.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shared.constraints import (
    ON_SAMPLES,
    movement_cost,
    movement_prices,
    selected,
    violations,
)
from shared.contracts import Constraint, JobSpec
from shared.snapshot import FloatArray, Snapshot, TailLayer
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import Array, Mask, Problem, problem_of
from solver_service.milp.network.impossible import impossible
from solver_service.milp.network.weighing import Weighing
from solver_service.milp.rounding.snapping import PINNING, inside, snapped


class Keeper:
    """Makes weights fit a job's constraints, and says whether they do."""

    def __init__(self, snapshot: Snapshot, spec: JobSpec) -> None:
        self.constraints: tuple[Constraint, ...] = tuple(spec.constraints)
        self._snapshot, self._spec = snapshot, spec
        self.box = _box(snapshot, spec)
        self.weighing: Weighing | None = Weighing(snapshot, self.constraints) if self.on_samples else None
        """What the samples count for the shares that are asked for; None where none are."""
        self.low, self.high = self.box.center - self.box.radius, self.box.center + self.box.radius

    @property
    def rounds(self) -> bool:
        """Whether weights have to be rounded: to zeros, or to a grid."""
        return any(constraint.type in PINNING for constraint in self.constraints)

    @property
    def on_samples(self) -> bool:
        """Whether shares of samples are asked for."""
        return any(constraint.type in ON_SAMPLES for constraint in self.constraints)

    def fitted(self, moved: Moved) -> Moved:
        """Weights inside the limits of signs, and rounded where constraints ask for it."""
        return replace(moved, weight=self.nearest(moved.weight)) if self.constraints else moved

    def nearest(self, weight: FloatArray) -> FloatArray:
        """The block's float32 weights [h, d] inside the limits of signs, and rounded where constraints ask for it."""
        signed = np.clip(weight, self.box.floor[:, :-1], self.box.ceiling[:, :-1]).astype(np.float32)
        return snapped(self.box, np.where(inside(self.box, signed), signed, weight))

    def impossible(self) -> list[str]:
        """Notes on why no weights in the box can keep the constraints on weights, where that is plain to see."""

        def box_under(some: Sequence[Constraint]) -> Problem:
            return _box(self._snapshot, self._spec.model_copy(update={"constraints": list(some)}))

        return impossible(self.constraints, box_under)

    def pins(self, weight: FloatArray) -> Mask:
        """Which block weights [h, d+1] rounding decides: all on a grid, and the zeros where few may be others."""
        found = np.zeros(self.box.center.shape, dtype=bool)
        for constraint in self.constraints:
            if constraint.type in PINNING:
                chosen = selected(constraint, weight.shape)
                found[:, :-1] |= chosen & (weight == 0) if constraint.type == "max_nonzero" else chosen
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
