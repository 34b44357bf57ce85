"""The extra constraints of a job on float32 weights, in float64 arithmetic: the one definition of "feasible".

Constraints on samples (min_accuracy, recall_floor, group_rate_gap, precision_floor) count shares of sample weight; a
sample is right when its class wins by EPSILON. Constraints on weights (nonnegative, monotone, max_nonzero, grid,
levels, movement_cost) speak of single entries of the block's weight matrix [h, d]: `classes` choose rows (output
units), `indices` columns (inputs), and all are meant where one is left out. Biases are free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from shared.losses import SLACK, margins
from shared.objectives import EPSILON, class_scores, outputs, sample_weights
from shared.snapshot import FloatArray, IntArray, Snapshot, TailLayer, class_targets

if TYPE_CHECKING:
    from shared.contracts import Constraint

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ON_SAMPLES = ("min_accuracy", "recall_floor", "group_rate_gap", "precision_floor")
ON_WEIGHTS = ("nonnegative", "monotone", "max_nonzero", "grid", "levels", "movement_cost")


@dataclass(frozen=True)
class Violation:
    """A constraint that weights break: its place in the spec, and by how much, in the constraint's own unit."""

    index: int
    type: str
    amount: float

    @property
    def name(self) -> str:
        """As notes and errors call it."""
        return f"constraints.{self.index} ({self.type})"


def violations(
    constraints: Sequence["Constraint"],
    snapshot: Snapshot,
    weight: FloatArray,
    bias: FloatArray | None,
    tail: tuple[TailLayer, ...] | None = None,
) -> list[Violation]:
    """The constraints that these weights break; none when they are feasible. movement_cost is never broken.

    `tail` replaces the snapshot's own where it moved with the block.
    """
    scores: Array | None = None
    found = []
    for index, constraint in enumerate(constraints):
        if constraint.type in ON_SAMPLES:
            scores = class_scores(snapshot, outputs(snapshot, weight, bias, tail)) if scores is None else scores
            amount = _short_of_shares(constraint, snapshot, scores)
        else:
            amount = _off_weights(constraint, weight)
        if amount > 0:
            found.append(Violation(index, constraint.type, float(amount)))
    return found


def right_samples(
    snapshot: Snapshot, weight: FloatArray, bias: FloatArray | None, tail: tuple[TailLayer, ...] | None = None
) -> Mask:
    """The samples whose class wins by EPSILON [N]."""
    return _right(snapshot, class_scores(snapshot, outputs(snapshot, weight, bias, tail)))


def called(scores: Array, number: int) -> Mask:
    """The samples [N] that count as called this class: no other class beats it by EPSILON. scores [N, classes]."""
    rivals = np.delete(scores, number, axis=1)
    return np.asarray((rivals - scores[:, [number]]).max(axis=1) < EPSILON)


def movement_cost(constraints: Sequence["Constraint"], snapshot: Snapshot, weight: FloatArray) -> float:
    """What the change of these weights costs on top of the objective."""
    moved = np.abs(weight.astype(np.float64) - snapshot.weight)
    return float((movement_prices(constraints, weight.shape) * moved).sum())


def movement_prices(constraints: Sequence["Constraint"], shape: tuple[int, ...]) -> Array:
    """The price of a unit of movement of each weight [h, d]."""
    prices = np.zeros(shape)
    for constraint in constraints:
        if constraint.type == "movement_cost":
            prices[selected(constraint, shape)] += constraint.value
    return prices


def sign_limits(constraints: Sequence["Constraint"], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The lowest and the highest value of each weight [h, d] that nonnegative and monotone leave."""
    low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
    for constraint in constraints:
        if constraint.type == "nonnegative" or (constraint.type == "monotone" and constraint.value > 0):
            low[selected(constraint, shape)] = 0.0
        elif constraint.type == "monotone":
            high[selected(constraint, shape)] = 0.0
    return low, high


def grid_steps(constraints: Sequence["Constraint"], shape: tuple[int, ...]) -> Array:
    """The step of each weight's grid [h, d]; 0 where it has none."""
    steps = np.zeros(shape)
    for constraint in constraints:
        if constraint.type == "grid":
            steps[selected(constraint, shape)] = constraint.value
    return steps


def selected(constraint: "Constraint", shape: tuple[int, ...]) -> Mask:
    """The weights [h, d] that a constraint on weights speaks of: rows by `classes`, columns by `indices`."""
    rows = np.zeros(shape[0], dtype=bool)
    rows[slice(None) if constraint.classes is None else constraint.classes] = True
    columns = np.zeros(shape[1], dtype=bool)
    columns[slice(None) if constraint.indices is None else constraint.indices] = True
    return np.asarray(rows[:, None] & columns)


def floors(constraint: "Constraint", snapshot: Snapshot) -> list[Mask]:
    """The sets of samples [N] of which min_accuracy or recall_floor wants a share right; all have weight."""
    weighty = sample_weights(snapshot) > 0
    if constraint.type == "min_accuracy":
        return [weighty]
    targets = class_targets(snapshot)
    sets = [weighty & (targets == number) for number in asked_classes(constraint, snapshot)]
    if constraint.groups is not None:
        group = cast(IntArray, snapshot.group)
        sets = [members & (group == number) for members in sets for number in sorted(set(constraint.groups))]
    return [members for members in sets if members.any()]


def asked_classes(constraint: "Constraint", snapshot: Snapshot) -> list[int]:
    """The classes that a constraint on samples speaks of, each once."""
    return sorted(set(range(snapshot.classes) if constraint.classes is None else constraint.classes))


def gap_groups(constraint: "Constraint", snapshot: Snapshot) -> list[Mask]:
    """The groups of samples [N] that group_rate_gap compares, of the given classes only."""
    group = cast(IntArray, snapshot.group)
    counted = sample_weights(snapshot) > 0
    numbers = np.unique(group[counted])
    if constraint.classes is not None:
        counted = counted & np.isin(class_targets(snapshot), constraint.classes)
    return [counted & (group == number) for number in numbers]


def share(weights: Array, members: Mask, right: Mask) -> float:
    """The share of the members' weight that is right."""
    return float(weights[members & right].sum() / weights[members].sum())


def nearest_multiple(values: Array | FloatArray, steps: Array) -> FloatArray:
    """The float32 nearest to the multiple of the step that is nearest to each value."""
    exact = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(np.rint(exact / steps) * steps, dtype=np.float32)


def nearest_level(values: Array | FloatArray, levels: Sequence[float]) -> FloatArray:
    """The level, as float32, that is nearest to each value; of two that are as near, the lower one."""
    found = level_values(levels)
    exact = np.asarray(values, dtype=np.float64)
    middles = (found[1:].astype(np.float64) + found[:-1]) / 2
    return np.asarray(found[np.searchsorted(middles, exact)], dtype=np.float32)


def level_values(levels: Sequence[float]) -> FloatArray:
    """The levels as float32, in rising order, each once."""
    with np.errstate(over="ignore"):
        return np.unique(np.asarray(levels, dtype=np.float64).astype(np.float32))


def _right(snapshot: Snapshot, scores: Array) -> Mask:
    return np.asarray(margins(scores, class_targets(snapshot)) >= EPSILON)


def _short_of_shares(constraint: "Constraint", snapshot: Snapshot, scores: Array) -> float:
    weights, right = sample_weights(snapshot), _right(snapshot, scores)
    if constraint.type == "group_rate_gap":
        rates = [share(weights, members, right) for members in gap_groups(constraint, snapshot)]
        short = max(rates) - min(rates) - constraint.value
    elif constraint.type == "precision_floor":
        classes = asked_classes(constraint, snapshot)
        short = constraint.value - min(_precision(snapshot, scores, right, number) for number in classes)
    else:
        sets = floors(constraint, snapshot)
        short = constraint.value - min((share(weights, members, right) for members in sets), default=1.0)
    return short if short > SLACK else 0.0


def _precision(snapshot: Snapshot, scores: Array, right: Mask, number: int) -> float:
    """Of the weight that is called a class, the share that is of it and right; 1 where nothing is called it."""
    weights, own = sample_weights(snapshot), class_targets(snapshot) == number
    true = float(weights[own & right].sum())
    false = float(weights[~own & called(scores, number)].sum())
    return true / (true + false) if true + false > 0 else 1.0


def _off_weights(constraint: "Constraint", weight: FloatArray) -> float:
    chosen = weight[selected(constraint, weight.shape)].astype(np.float64)
    match constraint.type:
        case "nonnegative":
            return float(np.maximum(0.0, -chosen).max())
        case "monotone":
            return float(np.maximum(0.0, -constraint.value * chosen).max())
        case "max_nonzero":
            return max(0.0, np.count_nonzero(chosen) - constraint.value)
        case "grid":
            return float(np.abs(chosen - nearest_multiple(chosen, np.full(chosen.shape, constraint.value))).max())
        case "levels":
            return float(np.abs(chosen - nearest_level(chosen, constraint.levels or ())).max())
    return 0.0
