"""Outlines: what is said of a snapshot without its samples' numbers, against the whole one."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts import JobSpec
from shared.errors import ContractError, SnapshotError
from shared.magnitudes import Reach
from shared.outline import nbytes, outline
from shared.snapshot import FORMAT, Snapshot
from tests.conftest import small_snapshot
from tests.unit.shared.test_snapshot import encode, parts


def outline_of(data: bytes) -> Snapshot:
    return outline(lambda begin, end: data[begin:end], len(data))


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_an_outline_is_refused_exactly_where_the_snapshot_is(data: st.DataObject) -> None:
    """Whatever is done to a file's bytes, both readers take it or both refuse it; a job's worker meets no surprise."""
    whole = bytearray(small_snapshot().to_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = bytes(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    answers = []
    for read in (Snapshot.from_bytes, outline_of):
        try:
            answers.append(str(read(file).shapes()))
        except SnapshotError:
            answers.append("refused")
    assert answers[0] == answers[1]


WHOLE = small_snapshot().to_bytes()
HEAD_BYTES = int.from_bytes(WHOLE[:8], "little")
HEADER = json.loads(WHOLE[8 : 8 + HEAD_BYTES])
WORDS = st.text(max_size=5) | st.sampled_from(["snapshot", "dtype", "shape", "\ud800", "\udc00x"])
NUMBERS = st.integers(-3, 3) | st.sampled_from([2**40, 2**64, 10**400, 30, 3]) | st.floats()
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)
SHAPES = st.lists(st.sampled_from([True, 1, 3, 30, 90, 0, -1, 1.0, "3"]), max_size=3) | st.just([1] * 100)


def with_header(text: str) -> bytes:
    """The same tensors under another header, in which surrogates may be bytes of their own."""
    head = text.encode(errors="surrogatepass")
    return struct.pack("<Q", len(head)) + head + WHOLE[8 + HEAD_BYTES :]


def refused(read: Callable[[bytes], Snapshot], file: bytes) -> SnapshotError | None:
    try:
        read(file)
    except SnapshotError as error:
        return error
    return None


def agreed(file: bytes) -> bool:
    """Whether both readers take a file, which they have to agree on; a refusal names what is at fault."""
    answers = [refused(read, file) for read in (outline_of, Snapshot.from_bytes)]
    assert (answers[0] is None) == (answers[1] is None), answers
    assert all(answer is None or (answer.field and answer.detail) for answer in answers)
    return answers[0] is None


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_whatever_a_header_says_both_readers_agree(data: st.DataObject) -> None:
    """Any JSON in any field of a header, as text that Python writes: taken by both or refused by both, by name."""
    header: dict[str, Any] = json.loads(json.dumps(HEADER))
    name = data.draw(st.sampled_from([*header, "extra"]))
    place = data.draw(st.sampled_from(["whole", "dtype", "shape", "data_offsets", "snapshot", "pt", "format"]))
    value = data.draw(SHAPES if place == "shape" and data.draw(st.booleans()) else ANY)
    if place == "whole":
        header[name] = value
    else:
        header.setdefault(name, {})[place] = value
    agreed(with_header(json.dumps(header, ensure_ascii=data.draw(st.booleans()))))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_the_description_says_both_readers_agree(data: st.DataObject) -> None:
    """The same for each field of the snapshot's own JSON."""
    name = data.draw(st.sampled_from(["format", "task", "activation", "tail", "note", "more"]))
    told = {"format": FORMAT, "task": "classification", name: data.draw(ANY)}
    header = {**HEADER, "__metadata__": {"snapshot": json.dumps(told)}}
    agreed(with_header(json.dumps(header)))


def swapped(before: str, after: str) -> str:
    text = json.dumps(HEADER)
    assert before in text
    return text.replace(before, after, 1)


@pytest.mark.parametrize(("text", "field"), [
    (swapped('"shape": [3]', '"shape": [true, 3]'), "bias"),
    (swapped('"shape": [3]', f'"shape": {[1] * 99 + [3]}'), "bias"),
    (swapped('"shape": [3]', '"shape": []'), "bias"),
    (swapped('"shape": [3]', '"shape": ' + "[" * 500 + "]" * 500), "snapshot"),
    (swapped('"shape": [3]', '"extra": ' + "[" * 40 + "]" * 40 + ', "shape": [3]'), "bias"),
    (swapped('"shape": [3]', '"extra": 1e999, "shape": [3]'), "bias"),
    (swapped('"shape": [3]', '"shape": [9], "shape": [3]'), "snapshot"),
    (swapped("[0, ", "[-0, "), "snapshot"),
    (swapped('{"snapshot"', '{"pt": 1, "snapshot"'), "__metadata__['pt']"),
    (swapped('{"snapshot"', '{"pt": null, "snapshot"'), "__metadata__['pt']"),
    (swapped('{"snapshot"', '{"pt": NaN, "snapshot"'), "snapshot"),
    (swapped('{"snapshot"', '{"pt": "\\ud800", "snapshot"'), "__metadata__['pt']"),
    (swapped('{"snapshot"', '{"\\ud800": "pt", "snapshot"'), "__metadata__['\\ud800']"),
    (json.dumps(HEADER)[:-1] + ', "__metadata__": {}}', "snapshot"),
])  # fmt: skip
def test_a_header_that_only_one_reader_would_take_is_refused(text: str, field: str) -> None:
    """Before it is stored: a worker's library is stricter than Python's JSON, and numpy has its own limits."""
    assert not agreed(with_header(text))
    error = refused(outline_of, with_header(text))
    assert error is not None
    assert error.field == field


@pytest.mark.parametrize("field", ["note", "activation", "format", "task", "tail"])
def test_a_description_that_is_too_deep_is_refused(field: str) -> None:
    """A reader that is deep in calls of its own could not read it, or not even say what is wrong."""
    deep: Any = "x"
    for _ in range(700):
        deep = {"in": deep} if field == "note" else [deep]
    told = {"format": FORMAT, "task": "classification", field: {"in": deep} if field == "note" else deep}
    error = refused(outline_of, with_header(json.dumps({**HEADER, "__metadata__": {"snapshot": json.dumps(told)}})))
    assert error is not None
    assert error.field == field


@pytest.mark.parametrize("dtype", ["F16", "F32"])
@pytest.mark.parametrize("spec", [
    {"objective": "zero_one"}, {"objective": "mse"}, {"objective": "worst_group"},
    {"objective": "hinge", "margin": 3.0},
    {"objective": "hinge", "constraints": [{"type": "grid", "value": 1e-30}]},
    {"objective": "hinge", "constraints": [{"type": "recall_floor", "value": 0.5, "classes": [2]}]},
    {"objective": "hinge", "constraints": [{"type": "nonnegative", "indices": [3]}]},
    {"objective": "hinge", "constraints": [{"type": "group_rate_gap", "value": 0.1}]},
])  # fmt: skip
def test_a_spec_fits_an_outline_as_it_fits_the_snapshot(dtype: str, spec: dict[str, object]) -> None:
    """The same specs are taken and refused, in the same words."""
    tensors = parts()
    tensors["inputs"] = tensors["inputs"].astype(np.float16 if dtype == "F16" else np.float32)
    data = encode(tensors)
    words = []
    for snapshot in (Snapshot.from_bytes(data), outline_of(data)):
        try:
            JobSpec.model_validate({"radius": 0.1, **spec}).check(snapshot)
            words.append("")
        except ContractError as error:
            words.append(str(error))
    assert words[0] == words[1]


def test_an_outline_knows_the_range_of_what_it_leaves_out() -> None:
    """Inputs whose products might overflow are not surely finite, in the outline as in the snapshot."""
    tensors = parts()
    goal = JobSpec(objective="hinge", radius=0.1).goal
    assert goal.surely_finite(outline_of(encode(tensors)))
    tensors["inputs"] = tensors["inputs"] * np.float32(1e37)
    tensors["weight"] = np.full_like(tensors["weight"], 3e38)
    found, whole = outline_of(encode(tensors)), Snapshot.from_bytes(encode(tensors))
    assert abs(found.inputs[0, 0]) == np.abs(whole.inputs).max()
    assert goal.surely_finite(found) == goal.surely_finite(whole)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 400_000, -1])
def test_a_number_that_is_none_is_found_wherever_it_is(bad: float, place: int) -> None:
    """Values are checked piece by piece, to the last."""
    tensors = {**parts(), "inputs": np.ones((30, 20_000), np.float32), "weight": np.ones((3, 20_000), np.float32)}
    tensors["inputs"].reshape(-1)[place] = bad
    with pytest.raises(SnapshotError, match="NaN or infinity") as refused:
        outline_of(encode(tensors))
    assert refused.value.field == "inputs"


def test_an_outline_is_small() -> None:
    """Of a large snapshot only weights and targets are held, read in pieces."""
    inputs = np.zeros((10_000, 500), np.float32)
    data = safetensors.numpy.save(
        {"inputs": inputs, "targets": np.zeros(10_000, np.int64), "weight": np.ones((2, 500), np.float32)},
        metadata={"snapshot": '{"format": "gdsolver.snapshot/1", "task": "classification"}'},
    )
    longest = 0

    def read(begin: int, end: int) -> bytes:
        nonlocal longest
        longest = max(longest, end - begin)
        return data[begin:end]

    assert nbytes(outline(read, len(data))) < 100_000
    assert longest <= 2 * 1024 * 1024


HUGE: list[tuple[str, dict[str, object], float]] = [
    ("margin", {"objective": "hinge", "margin": 1e-290}, 1e38),
    ("l2", {"objective": "log_loss", "l2": 1e308}, 1.0),
    ("objective", {"objective": "hinge", "margin": 1e-270, "radius": 3e38, "constraints": [
        {"type": "min_accuracy", "value": 1}]}, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("field", "spec", "weight"), HUGE)
def test_what_cannot_be_finite_is_refused_with_its_cure(field: str, spec: dict[str, object], weight: float) -> None:
    """The value at the start is told with every result: where float64 does not hold it, the field at fault is named."""
    tensors = parts()
    tensors["weight"] = np.ones_like(tensors["weight"]) * np.float32(100.0)
    tensors["weight"][0] *= -1
    tensors["sample_weight"] = np.full(len(tensors["inputs"]), weight, np.float32)
    snapshot = Snapshot.from_bytes(encode(tensors))
    with pytest.raises(ContractError, match="beyond float64") as refused:
        JobSpec.model_validate({"radius": 1.0, **spec}).check(snapshot)
    assert refused.value.field == field


@pytest.mark.parametrize("spec", [
    {"objective": "ramp", "margin": 1e-300, "constraints": [{"type": "max_nonzero", "value": 1}]},
    {"objective": "hinge", "margin": 1e-200},
    {"objective": "hinge", "radius": 3.4e38, "constraints": [{"type": "min_accuracy", "value": 1}]},
    {"objective": "hinge", "constraints": [{"type": "movement_cost", "value": 1e9}]},
    {"objective": "log_loss", "l2": 1e200},
])  # fmt: skip
def test_what_is_large_and_finite_is_taken(spec: dict[str, object]) -> None:
    """Nothing is refused for being odd: with all its numbers in float64, a job has an answer."""
    JobSpec.model_validate({"radius": 1.0, **spec}).check(Snapshot.from_bytes(encode(parts())))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_value_in_the_box_is_above_what_sizes_say(data: st.DataObject) -> None:
    """The crude bound holds for every objective of the task, at weights anywhere within reach."""
    snapshot = small_snapshot()
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scale = 10.0 ** data.draw(st.integers(-30, 30))
    snapshot = replace(snapshot, inputs=snapshot.inputs * np.float32(scale), sample_weight=None)
    goal = JobSpec(
        objective=data.draw(st.sampled_from(["zero_one", "ramp", "hinge", "log_loss"])),
        margin=10.0 ** data.draw(st.integers(-20, 20)),
        radius=1.0,
    ).goal
    moved = snapshot.weight + rng.uniform(-1, 1, snapshot.weight.shape).astype(np.float32)
    assert goal.value(snapshot, moved, snapshot.bias) <= goal.most(snapshot, Reach(weight=1.0 + 1e-6))
