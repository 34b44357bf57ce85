"""Does a constraint fit its snapshot? Said before a job is queued, naming the field and the cure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.constraints import ON_SAMPLES, gap_groups, level_values, selected
from shared.errors import SpecError
from shared.objectives import sample_weights
from shared.snapshot import Snapshot, class_targets

if TYPE_CHECKING:
    from shared.contracts import Constraint

MOST_PRICE = 1e9
MOST_STEPS = 2.0**24
"""A multiple of the grid has to be exact in float32, up to its last digit."""
NO_VALUE_NEEDED = ("levels", "nonnegative")


def check_constraints(constraints: Sequence["Constraint"], snapshot: Snapshot, *, complete: bool = True) -> None:
    """Raise SpecError, naming the field and the cure, unless every constraint fits the snapshot.

    Of some of the samples, not `complete`, no class and no group is missed: others may have it.
    """
    gridded = np.zeros(snapshot.weight.shape, dtype=bool)
    for index, constraint in enumerate(constraints):
        where = f"constraints.{index}"
        check_value(constraint, f"{where}.value")
        _check_lists(constraint, snapshot, where)
        if constraint.type in ON_SAMPLES:
            _check_samples(constraint, snapshot, where)
        _check_groups(constraint, snapshot, where)
        if complete and constraint.type in ON_SAMPLES:
            _check_present(constraint, snapshot, where)
        if constraint.levels is not None or constraint.type == "levels":
            _check_levels(constraint, f"{where}.levels")
        if constraint.type in ("grid", "levels"):
            chosen = selected(constraint, snapshot.weight.shape)
            if (gridded & chosen).any():
                raise SpecError(
                    "another grid or list of levels speaks of the same weights; give every weight one grid", field=where
                )
            gridded |= chosen
            if constraint.type == "grid":
                _check_step(constraint.value, snapshot.weight[chosen], f"{where}.value")


def check_value(constraint: "Constraint", field: str) -> None:
    """Raise SpecError unless the value is one that the type can have, whatever the snapshot."""
    value = constraint.value
    match constraint.type:
        case "min_accuracy" | "recall_floor" | "group_rate_gap" | "precision_floor":
            fits, wanted = 0 <= value <= 1, "a share from 0 to 1"
        case "nonnegative":
            fits, wanted = value == 0, "0: the selected weights are kept at 0 or above"
        case "monotone":
            fits, wanted = value in (-1, 1), "1 (weights at 0 or above) or -1 (at 0 or below)"
        case "max_nonzero":
            fits, wanted = value >= 0 and value == int(value), "a whole number of weights, 0 or more"
        case "grid":
            fits, wanted = value > 0, "a step above 0"
        case "levels":
            fits, wanted = value == 0, "none: the list `levels` says it all"
        case _:
            fits, wanted = 0 <= value <= MOST_PRICE, f"a price from 0 to {MOST_PRICE:g}"
    if constraint.type not in NO_VALUE_NEEDED and "value" not in constraint.model_fields_set:
        raise SpecError(f"missing; {constraint.type} needs {wanted}", field=field)
    if not fits:
        raise SpecError(f"{value:g} does not fit {constraint.type}; expected {wanted}", field=field)


def _check_step(step: float, weights: NDArray[np.float32], field: str) -> None:
    largest = float(np.abs(weights).max())
    if step * MOST_STEPS < largest:
        raise SpecError(
            f"too fine for float32 weights of size {largest:.3g}; use at least {largest / MOST_STEPS:.3g}", field=field
        )


def _check_levels(constraint: "Constraint", field: str) -> None:
    if constraint.type != "levels":
        raise SpecError(f"`levels` does not go with {constraint.type}; leave it out", field=field)
    if constraint.levels is None:
        raise SpecError("missing; name the values that the weights may take", field=field)
    if not np.isfinite(level_values(constraint.levels)).all():
        raise SpecError("holds values that float32 cannot; every level must be below 3.4e38 in size", field=field)


def _check_lists(constraint: "Constraint", snapshot: Snapshot, where: str) -> None:
    rows, columns = snapshot.weight.shape
    on_samples = constraint.type in ON_SAMPLES
    most = snapshot.classes if on_samples else rows
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
        _check_distinct(numbers, f"{where}.{name}")


def _check_distinct(numbers: Sequence[int], field: str) -> None:
    """A list that names each thing once is no longer than the snapshot has things to name."""
    if len(set(numbers)) < len(numbers):
        raise SpecError("names a number twice; name each once", field=field)


def _check_samples(constraint: "Constraint", snapshot: Snapshot, where: str) -> None:
    if snapshot.task == "multilabel":
        raise SpecError(
            f"{constraint.type} counts samples of one class each, and these have several labels; "
            "send each label as a binary snapshot",
            field=f"{where}.type",
        )
    if snapshot.task == "regression":
        raise SpecError(
            f"{constraint.type} counts right classes, and this is a regression; use the objective 'outliers'",
            field=f"{where}.type",
        )
    if constraint.type == "group_rate_gap" and snapshot.group is None:
        raise SpecError("needs each sample's group: send the tensor `group` [N] (i64)", field=f"{where}.type")


def _check_groups(constraint: "Constraint", snapshot: Snapshot, where: str) -> None:
    """The list `groups` goes with recall_floor alone."""
    if constraint.groups is None:
        return
    if constraint.type != "recall_floor":
        raise SpecError(
            f"`groups` does not go with {constraint.type}; recall_floor has floors for single groups",
            field=f"{where}.groups",
        )
    if snapshot.group is None:
        raise SpecError("needs each sample's group: send the tensor `group` [N] (i64)", field=f"{where}.groups")
    if not constraint.groups:
        raise SpecError("an empty list selects nothing; leave it out for floors per class", field=f"{where}.groups")
    _check_distinct(constraint.groups, f"{where}.groups")


def _check_present(constraint: "Constraint", snapshot: Snapshot, where: str) -> None:
    """Each class and group that is named has samples, and so has whatever is compared."""
    weighty = sample_weights(snapshot) > 0
    named = [("class", "classes", class_targets(snapshot), constraint.classes)]
    named = [] if constraint.type == "precision_floor" else named
    named += [] if snapshot.group is None else [("group", "groups", snapshot.group, constraint.groups)]
    for what, field, of_samples, numbers in named:
        present = set(np.unique(of_samples[weighty]).tolist())
        missing = [number for number in numbers or () if number not in present]
        if missing:
            raise SpecError(
                f"{what} {missing[0]} has no sample of positive weight in the snapshot; leave it out or send some",
                field=f"{where}.{field}",
            )
    if constraint.type == "group_rate_gap":
        _check_gap(constraint, snapshot, where)


def _check_gap(constraint: "Constraint", snapshot: Snapshot, where: str) -> None:
    members = gap_groups(constraint, snapshot)
    if len(members) < 2:
        raise SpecError(
            "compares groups; the snapshot's `group` has only one among samples of positive weight",
            field=f"{where}.type",
        )
    if not all(group.any() for group in members):
        raise SpecError("one of the groups has no sample of these classes", field=f"{where}.classes")
