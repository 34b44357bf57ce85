"""Reads the constraints that a user gives a tunneller, and says in plain words what is wrong with one."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from shared.contracts import Constraint

TYPES: tuple[str, ...] = get_args(Constraint.model_fields["type"].annotation)
EXAMPLE = "RecallFloor(3, 0.75)"
AS_DICT = {"type": "recall_floor", "value": 0.75, "classes": [3]}


def read_constraints(given: Sequence[Constraint | Mapping[str, Any]]) -> tuple[Constraint, ...]:
    """What every job asks for; ValueError with the place and the cure for what is no constraint."""
    if isinstance(given, str | Mapping | Constraint):
        raise ValueError(f"constraints is {given!r}; use a list such as [{EXAMPLE}]")
    return tuple(_read(index, constraint) for index, constraint in enumerate(given))


def _read(index: int, given: object) -> Constraint:
    if isinstance(given, Constraint):
        return given
    where = f"constraints[{index}]"
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{where} is {given!r}; a constraint is {EXAMPLE}, or {AS_DICT} "
            "(sentences like 'worst >= 0.9' belong in `require`)"
        )
    if given.get("type") not in TYPES:
        raise ValueError(f"{where} has type {given.get('type')!r}; use one of {', '.join(TYPES)}")
    try:
        return Constraint.model_validate(given)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ValueError(f"{where} does not fit ({'; '.join(faults)}); use {EXAMPLE}, or {AS_DICT}") from None
