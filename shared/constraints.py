"""The extra constraints of a job on float32 weights, in float64 arithmetic: the one definition of "feasible".

Constraints on samples (min_accuracy, recall_floor, group_rate_gap) count shares of sample weight; a sample is right
when its class wins by EPSILON. Constraints on weights (nonnegative, monotone, max_nonzero, grid, movement_cost) speak
of single entries of the block's weight matrix [h, d]: `classes` choose rows (output units), `indices` columns (inputs),
and all are meant where one is left out. Biases are free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from shared.errors import SpecError
from shared.objectives import EPSILON, margins, outputs, sample_weights
from shared.snapshot import FloatArray, IntArray, Snapshot, TailLayer

if TYPE_CHECKING:
    from shared.contracts import Constraint

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ON_SAMPLES = ("min_accuracy", "recall_floor", "group_rate_gap")
ON_WEIGHTS = ("nonnegative", "monotone", "max_nonzero", "grid", "movement_cost")
SLACK = 1e-9
"""Shares that differ by less are the same: 7 of 10 samples are a share of 0.7, whatever their weights' rounding."""
MOST_PRICE = 1e9
MOST_STEPS = 2.0**24
"""A multiple of the grid has to be exact in float32, up to its last digit."""


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
    right: Mask | None = None
    found = []
    for index, constraint in enumerate(constraints):
        if constraint.type in ON_SAMPLES:
            right = right_samples(snapshot, weight, bias, tail) if right is None else right
            amount = _short_of_shares(constraint, snapshot, right)
        else:
            amount = _off_weights(constraint, weight)
        if amount > 0:
            found.append(Violation(index, constraint.type, float(amount)))
    return found


def right_samples(
    snapshot: Snapshot, weight: FloatArray, bias: FloatArray | None, tail: tuple[TailLayer, ...] | None = None
) -> Mask:
    """The samples whose class wins by EPSILON [N]."""
    return np.asarray(margins(outputs(snapshot, weight, bias, tail), snapshot.targets) >= EPSILON)


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
    classes = range(snapshot.outputs) if constraint.classes is None else constraint.classes
    sets = [weighty & (snapshot.targets == number) for number in classes]
    return [members for members in sets if members.any()]


def gap_groups(constraint: "Constraint", snapshot: Snapshot) -> tuple[Mask, Mask]:
    """The two groups of samples [N] that group_rate_gap compares, of the given classes only."""
    group = cast(IntArray, snapshot.group)
    counted = sample_weights(snapshot) > 0
    first, second = np.unique(group[counted])
    if constraint.classes is not None:
        counted = counted & np.isin(snapshot.targets, constraint.classes)
    return counted & (group == first), counted & (group == second)


def share(weights: Array, members: Mask, right: Mask) -> float:
    """The share of the members' weight that is right."""
    return float(weights[members & right].sum() / weights[members].sum())


def nearest_multiple(values: Array | FloatArray, steps: Array) -> FloatArray:
    """The float32 nearest to the multiple of the step that is nearest to each value."""
    exact = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(np.rint(exact / steps) * steps, dtype=np.float32)


def _short_of_shares(constraint: "Constraint", snapshot: Snapshot, right: Mask) -> float:
    weights = sample_weights(snapshot)
    if constraint.type == "group_rate_gap":
        first, second = gap_groups(constraint, snapshot)
        short = abs(share(weights, first, right) - share(weights, second, right)) - constraint.value
    else:
        sets = floors(constraint, snapshot)
        short = constraint.value - min((share(weights, members, right) for members in sets), default=1.0)
    return short if short > SLACK else 0.0


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
    return 0.0


# --- does a constraint fit its snapshot? -----------------------------------------------------------------------------


def check_constraints(constraints: Sequence["Constraint"], snapshot: Snapshot) -> None:
    """Raise SpecError, naming the field and the cure, unless every constraint fits the snapshot."""
    gridded = np.zeros(snapshot.weight.shape, dtype=bool)
    for index, constraint in enumerate(constraints):
        where = f"constraints.{index}"
        _check_value(constraint, f"{where}.value")
        _check_lists(constraint, snapshot, where)
        if constraint.type in ON_SAMPLES:
            _check_samples(constraint, snapshot, where)
        if constraint.type == "grid":
            chosen = selected(constraint, snapshot.weight.shape)
            if (gridded & chosen).any():
                raise SpecError("another grid speaks of the same weights; give every weight one grid", field=where)
            gridded |= chosen
            largest = float(np.abs(snapshot.weight[chosen]).max())
            if constraint.value * MOST_STEPS < largest:
                raise SpecError(
                    f"too fine for float32 weights of size {largest:.3g}; use at least {largest / MOST_STEPS:.3g}",
                    field=f"{where}.value",
                )


def _check_value(constraint: "Constraint", field: str) -> None:
    value = constraint.value
    match constraint.type:
        case "min_accuracy" | "recall_floor" | "group_rate_gap":
            fits, wanted = 0 <= value <= 1, "a share from 0 to 1"
        case "nonnegative":
            fits, wanted = value == 0, "0: the selected weights are kept at 0 or above"
        case "monotone":
            fits, wanted = value in (-1, 1), "1 (weights at 0 or above) or -1 (at 0 or below)"
        case "max_nonzero":
            fits, wanted = value >= 0 and value == int(value), "a whole number of weights, 0 or more"
        case "grid":
            fits, wanted = value > 0, "a step above 0"
        case _:
            fits, wanted = 0 <= value <= MOST_PRICE, f"a price from 0 to {MOST_PRICE:g}"
    if not fits:
        raise SpecError(f"{value:g} does not fit {constraint.type}; expected {wanted}", field=field)


def _check_lists(constraint: "Constraint", snapshot: Snapshot, where: str) -> None:
    rows, columns = snapshot.weight.shape
    on_samples = constraint.type in ON_SAMPLES
    most = snapshot.outputs if on_samples else rows
    for name, numbers, size in (("classes", constraint.classes, most), ("indices", constraint.indices, columns)):
        if numbers is None:
            continue
        if on_samples and (name == "indices" or constraint.type == "min_accuracy"):
            cure = "use recall_floor for single classes" if name == "classes" else "it speaks of samples, not of inputs"
            raise SpecError(f"`{name}` does not go with {constraint.type}: {cure}", field=f"{where}.{name}")
        if not numbers:
            raise SpecError("an empty list selects nothing; leave it out to mean all", field=f"{where}.{name}")
        outside = [number for number in numbers if not 0 <= number < size]
        if outside:
            raise SpecError(f"{outside[0]} is out of range, expected 0 to {size - 1}", field=f"{where}.{name}")


def _check_samples(constraint: "Constraint", snapshot: Snapshot, where: str) -> None:
    if snapshot.task != "classification":
        raise SpecError(
            f"{constraint.type} counts right classes, and this is a regression; use the objective 'outliers'",
            field=f"{where}.type",
        )
    weighty = sample_weights(snapshot) > 0
    missing = [number for number in constraint.classes or () if not (weighty & (snapshot.targets == number)).any()]
    if missing:
        raise SpecError(
            f"class {missing[0]} has no sample of positive weight in the snapshot; leave it out or send some",
            field=f"{where}.classes",
        )
    if constraint.type == "group_rate_gap":
        _check_groups(constraint, snapshot, where)


def _check_groups(constraint: "Constraint", snapshot: Snapshot, where: str) -> None:
    if snapshot.group is None:
        raise SpecError("needs each sample's group: send the tensor `group` [N] (i64)", field=f"{where}.type")
    groups = np.unique(snapshot.group[sample_weights(snapshot) > 0])
    if groups.size != 2:
        raise SpecError(
            f"compares two groups; the snapshot's `group` has {groups.size} among samples of positive weight",
            field=f"{where}.type",
        )
    if not all(members.any() for members in gap_groups(constraint, snapshot)):
        raise SpecError("one of the two groups has no sample of these classes", field=f"{where}.classes")
