"""Outlines: what is said of a snapshot without its samples' numbers, against the whole one."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts import JobSpec
from shared.errors import ContractError, SnapshotError
from shared.magnitudes import Reach
from shared.outline import nbytes, outline
from shared.snapshot import Snapshot
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
