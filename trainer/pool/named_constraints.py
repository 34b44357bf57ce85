"""Constraints by name, `RecallFloor(3, 0.9)`, so that an editor completes them and a slip is told where it is made."""

# ruff: noqa: N802  (functions that read like the types of `Constraint` that they make)

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any

from pydantic import ValidationError

from shared.constraint_checks import check_value
from shared.contracts import Constraint

Numbers = int | Iterable[int]
"""One class, column or group, or several: a list, an array, a tensor."""


def MinAccuracy(value: float) -> Constraint:
    """At least this share of the samples' weight is right."""
    return _made("MinAccuracy", "min_accuracy", value=value)


def RecallFloor(
    classes: Numbers | None = None, value: float | None = None, *, groups: Numbers | None = None
) -> Constraint:
    """At least this share of each of these classes is right: `RecallFloor(3, 0.9)`; of every class without them.

    With `groups`, in each of these groups by itself: numbers that `split` gives, or of a snapshot's tensor `group`.
    """
    return _made("RecallFloor", "recall_floor", classes=classes, value=value, groups=groups)


def PrecisionFloor(classes: Numbers | None = None, value: float | None = None) -> Constraint:
    """Of what is called one of these classes, at least this share is of it; of each class without them."""
    return _made("PrecisionFloor", "precision_floor", classes=classes, value=value)


def RateGap(value: float, *, classes: Numbers | None = None) -> Constraint:
    """The shares that are right in any two groups differ by at most this; with `classes`, of samples of these.

    Groups are what `split` gives of a batch, or a snapshot's tensor `group`.
    """
    return _made("RateGap", "group_rate_gap", value=value, classes=classes)


def NonNegative(*, classes: Numbers | None = None, indices: Numbers | None = None) -> Constraint:
    """Weights of these output units and input columns (all of those left out) are 0 or more."""
    return _made("NonNegative", "nonnegative", value=0.0, classes=classes, indices=indices)


def Monotone(value: float, *, classes: Numbers | None = None, indices: Numbers | None = None) -> Constraint:
    """Outputs rise (1) or fall (-1) with these input columns, or stay as they are."""
    return _made("Monotone", "monotone", value=value, classes=classes, indices=indices)


def MaxNonzero(value: int, *, classes: Numbers | None = None, indices: Numbers | None = None) -> Constraint:
    """At most so many of these weights differ from 0."""
    return _made("MaxNonzero", "max_nonzero", value=value, classes=classes, indices=indices)


def Grid(value: float, *, classes: Numbers | None = None, indices: Numbers | None = None) -> Constraint:
    """These weights are multiples of a step."""
    return _made("Grid", "grid", value=value, classes=classes, indices=indices)


def Levels(levels: Sequence[float], *, classes: Numbers | None = None, indices: Numbers | None = None) -> Constraint:
    """Each of these weights is one of the levels."""
    return _made("Levels", "levels", levels=levels, classes=classes, indices=indices)


def MovementCost(value: float, *, classes: Numbers | None = None, indices: Numbers | None = None) -> Constraint:
    """Every unit by which these weights move costs so much of the objective."""
    return _made("MovementCost", "movement_cost", value=value, classes=classes, indices=indices)


def _made(name: str, kind: str, **given: Any) -> Constraint:
    """The constraint of this type; ValueError with the argument and the cure for what it cannot have."""
    fields: dict[str, Any] = {"type": kind}
    for argument, value in given.items():
        if value is None:
            continue
        listed = argument in ("classes", "indices", "groups")
        fields[argument] = _numbers(f"{name}.{argument}", value) if listed else value
    try:
        made = Constraint.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{name}.{where} is {fault['input']!r}: {fault['msg']}") from None
    check_value(made, f"{name}.value")
    return made


def _numbers(where: str, given: Any) -> list[int]:
    """One number or several, of any library, as a list."""
    try:
        return [_index(given)]
    except TypeError:
        several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    try:
        return [_index(number) for number in (given if several else [given])]
    except TypeError:
        cure = "use a number such as 3, or several such as [2, 7]; a share goes by its name: value=0.9"
        raise ValueError(f"{where} is {given!r:.80}; {cure}") from None


def _index(value: Any) -> int:
    """A whole number of any library; TypeError for what is none, and for a flag of a mask."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise TypeError
    return index(value)
