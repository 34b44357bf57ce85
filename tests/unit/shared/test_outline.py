"""Outlines: what is said of a snapshot without its samples' numbers, against the whole one."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts import JobSpec
from shared.errors import ContractError, SnapshotError
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
