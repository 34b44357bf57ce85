"""Where in a body an error is: the path of fields that a client wrote, without the names that pydantic adds to it."""

import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

Place = tuple[str | int, ...]
LONGEST = 80
MOST = 100
"""So many errors of a body are looked at: the first ones are told, and there may be one for each of its numbers."""
KEY = "[key]"
"""So pydantic ends the place of what is wrong with a name in an object, rather than with its value."""
_TYPE = "_type"
"""So end the kinds of errors that say that a value is of another type altogether."""
_QUOTED = re.compile(r"`(\w+)`")


def place(kind: type[BaseModel], error: Mapping[str, Any]) -> Place:
    """The fields and indices that lead to an error in a body of this contract; none for the body itself.

    A contract that says of itself what is wrong names the field in backticks, the one at fault first.
    """
    parts, found = _walk(kind, error["loc"])
    if _is_model(found) and error["type"] == "value_error":
        named = (name for name in _QUOTED.findall(error["msg"]) if name in found.model_fields)
        return (*parts, *([first] if (first := next(named, None)) else []))
    return tuple(parts)


def likely(kind: type[BaseModel], errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the first errors those that speak of the type that was meant, where a field may have one of several types.

    pydantic tells what is wrong for each of them. A value that is of one of these types altogether is not said to be
    none of another one.
    """
    placed = [(error, place(kind, error)) for error in errors[:MOST]]
    return [error for error, at in placed if not (_is_of_type(error) and _is_beside(error, at, placed))]


def _is_of_type(error: Mapping[str, Any]) -> bool:
    return bool(str(error["type"]).endswith(_TYPE))


def _is_beside(error: Mapping[str, Any], at: Place, placed: Sequence[tuple[Mapping[str, Any], Place]]) -> bool:
    """Whether the value at an error's place is of another one of its types, about which something else is wrong."""
    mine = error["loc"]
    if len(mine) == len(at):
        return False
    others = ((one, there) for one, there in placed if one["loc"][: len(mine)] != mine and there[: len(at)] == at)
    return any(not _is_of_type(one) or len(there) > len(at) for one, there in others)


def _walk(kind: Any, location: Sequence[str | int]) -> tuple[list[str | int], Any]:
    """The parts of a location that are the client's, and the type of what is there."""
    parts: list[str | int] = []
    rest = list(location)
    while rest and rest != [KEY]:
        kinds = _members(kind)
        if len(kinds) > 1:
            rest.pop(0)  # pydantic's name of one of the types
            if not rest:
                break
        step = rest.pop(0)
        parts.append(step)
        kind = next((inner for one in kinds if (inner := _inside(one, step)) is not None), Any)
    return parts, kind


def _members(kind: Any) -> list[Any]:
    """What a value may be, apart from null."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        return [one for one in get_args(kind) if one is not type(None)]
    return [kind]


def _inside(kind: Any, step: str | int) -> Any:
    """The type of what is in a value at a field, an index or a name; None where there is none."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if _is_model(kind):
        return kind.model_fields[step].annotation if step in kind.model_fields else None
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list and isinstance(step, int):
        return arguments[0]
    return arguments[1] if origin is dict else None


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
