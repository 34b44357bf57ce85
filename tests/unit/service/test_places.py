"""Places of errors in bodies: whatever is sent, they are the client's own fields."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from shared.batches import BatchSpec
from shared.contracts import Feedback, JobSpec
from solver_service.gateway.places import likely, place

NAMES = st.sampled_from(["", "task", "tensors", "tail", "type", "levels", "bool", "constrained-str", "x"])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
SPEC = {"objective": "ramp", "radius": 0.1}
FIELDS = st.sampled_from([*JobSpec.model_fields, "more"])
SPECS = st.dictionaries(FIELDS, ANY, max_size=3).map(lambda change: {**SPEC, **change})


def errors_of(kind: type[BaseModel], body: Any) -> list[Any]:
    try:
        kind.model_validate(body)
    except ValidationError as error:
        return list(error.errors())
    return []


def assert_there(body: Any, parts: tuple[str | int, ...], error: Any) -> None:
    """Every step leads into what was sent; the last one may be what is missing there."""
    for number, part in enumerate(parts):
        if error["type"] in ("missing", "value_error") and number == len(parts) - 1:
            assert isinstance(body, dict)
            return
        assert isinstance(body, list | dict), (parts, error)
        assert part in body if isinstance(body, dict) else isinstance(part, int), (parts, error)
        body = body[part]  # type: ignore[index, call-overload]


@given(SPECS)
@settings(max_examples=500, deadline=None)
def test_a_place_is_one_that_the_client_wrote(spec: dict[str, Any]) -> None:
    """Not one step is a name of pydantic's, whatever is wrong; and something is told wherever something is wrong."""
    for kind, body in ((JobSpec, spec), (BatchSpec, {"specs": [spec]}), (Feedback, spec)):
        found = errors_of(kind, body)
        told = likely(kind, found)
        assert bool(told) == bool(found)
        for error in told:
            assert_there(body, place(kind, error), error)


@pytest.mark.parametrize(
    ("change", "at", "kind"),
    [
        ({"tail_radius": -1}, ("tail_radius",), "greater_than_equal"),
        ({"tail_radius": [0, -1]}, ("tail_radius", 1), "greater_than_equal"),
        ({"snapshot": "0"}, ("snapshot",), "string_pattern_mismatch"),
        ({"snapshot": {"task": "binary"}}, ("snapshot", "tensors"), "missing"),
        ({"supersede": True}, ("supersede",), "value_error"),
    ],
)
def test_what_is_told_is_about_the_type_that_was_sent(change: dict[str, Any], at: tuple[Any, ...], kind: str) -> None:
    """Who sends a number is not told that it is no list."""
    told = likely(JobSpec, errors_of(JobSpec, {**SPEC, **change}))
    assert [(place(JobSpec, error), error["type"]) for error in told] == [(at, kind)]


def test_any_number_of_errors_is_told_at_once() -> None:
    """One for each name that was sent, in a field that may have several types."""
    unknown = {f"name{number}": 1 for number in range(30_001)}
    found = errors_of(JobSpec, {**SPEC, "snapshot": {"task": "binary", "tensors": {}, **unknown}})
    assert len(found) > 30_000
    began = time.monotonic()
    told = likely(JobSpec, found)
    assert place(JobSpec, told[0]) == ("snapshot", "name0")
    assert time.monotonic() - began < 1
