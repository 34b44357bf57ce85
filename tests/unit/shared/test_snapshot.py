"""Snapshots: round trips, and every kind of wrong input refused by name."""

import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.activations import Activation
from shared.errors import ErrorCode, SnapshotError
from shared.objectives import outputs as block_outputs
from shared.snapshot import FORMAT, Snapshot, TailLayer, snapshot_id
from tests.conftest import small_snapshot


def encode(tensors: dict[str, Any], **metadata: Any) -> bytes:
    full = {"format": FORMAT, "task": "classification", "activation": "identity", "tail": [], "note": {}, **metadata}
    return safetensors.numpy.save(tensors, metadata={"snapshot": json.dumps(full)})


def parts(seed: int = 0) -> dict[str, Any]:
    return small_snapshot(seed).tensors()


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 6), st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_round_trip_keeps_every_tensor_and_the_id(seed: int, n: int, d: int, h: int) -> None:
    """Decoding what was encoded gives the same tensors, and encoding that again the same bytes."""
    rng = np.random.default_rng(seed)
    snapshot = Snapshot(
        task="classification",
        inputs=rng.normal(size=(n, d)).astype(np.float32),
        targets=rng.integers(0, h, n),
        weight=rng.normal(size=(h, d)).astype(np.float32),
        bias=rng.normal(size=h).astype(np.float32) if seed % 2 else None,
        offset=rng.normal(size=(n, h)).astype(np.float32) if seed % 3 else None,
        sample_weight=rng.random(n).astype(np.float32) + 0.1,
        note={"seed": seed},
    )
    data = snapshot.to_bytes()
    again = Snapshot.from_bytes(data)
    assert again.to_bytes() == data
    assert snapshot_id(again.to_bytes()) == snapshot_id(data)
    assert again.note == {"seed": seed}
    for name, array in snapshot.tensors().items():
        np.testing.assert_array_equal(again.tensors()[name], array)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_mutated_bytes_decode_or_are_refused_by_name(data: st.DataObject) -> None:
    """Whatever is done to a snapshot's bytes, the outcome is a valid snapshot or a SnapshotError, nothing else."""
    whole = bytearray(small_snapshot().to_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        Snapshot.from_bytes(bytes(whole[:cut] if data.draw(st.booleans()) else whole))
    except SnapshotError as error:
        refusal = error
    else:
        return
    assert refusal.field
    assert refusal.detail


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    """Bytes that are no safetensors file are refused, however they look."""
    with pytest.raises(SnapshotError):
        Snapshot.from_bytes(data)


def test_half_precision_inputs_decode_to_their_exact_values() -> None:
    """f16 and bf16 inputs arrive as the float32 values that they stand for."""
    exact = np.array([[1.5, -2.0, 0.25]] * 30, np.float32)
    half = encode({**parts(), "inputs": exact.astype(np.float16)})
    np.testing.assert_array_equal(Snapshot.from_bytes(half).inputs, exact)
    as_uint16 = encode({**parts(), "inputs": (exact.view(np.uint32) >> 16).astype(np.uint16)})
    brain = as_uint16.replace(b'"U16"', b'"BF16"')
    (length,) = struct.unpack("<Q", as_uint16[:8])
    grown = struct.pack("<Q", length + 1) + brain[8:]
    np.testing.assert_array_equal(Snapshot.from_bytes(grown).inputs, exact)


def test_a_header_that_claims_huge_tensors_is_refused_before_allocation() -> None:
    """2^60 claimed elements give `too_large`, not an attempt to allocate them."""
    entry = {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 4]}
    metadata = {"snapshot": json.dumps({"format": FORMAT, "task": "regression"})}
    header = json.dumps({"__metadata__": metadata, "inputs": entry}).encode()
    with pytest.raises(SnapshotError) as caught:
        Snapshot.from_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert caught.value.code is ErrorCode.TOO_LARGE
    assert caught.value.field == "inputs"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"inputs": np.full((30, 3), np.nan, np.float32)}, "inputs"),
        ({"inputs": np.ones((30, 4), np.float32)}, "weight"),
        ({"inputs": np.ones((30, 3), np.float64)}, "inputs"),
        ({"targets": np.full(30, 3, np.int64)}, "targets"),
        ({"targets": np.full(30, -1, np.int64)}, "targets"),
        ({"targets": np.ones(29, np.int64)}, "targets"),
        ({"targets": np.ones(30, np.float32)}, "targets"),
        ({"bias": np.ones(2, np.float32)}, "bias"),
        ({"offset": np.ones((30, 2), np.float32)}, "offset"),
        ({"sample_weight": np.full(30, -1, np.float32)}, "sample_weight"),
        ({"sample_weight": np.zeros(30, np.float32)}, "sample_weight"),
        ({"radius": np.ones((3, 2), np.float32)}, "radius"),
        ({"bias_radius": np.ones(3, np.float32)}, "bias_radius"),
        ({"unheard_of": np.ones(3, np.float32)}, "unheard_of"),
        ({"tail.0.weight": np.ones((2, 3), np.float32)}, "tail.0.weight"),
        ({"tail.x.weight": np.ones((2, 3), np.float32)}, "tail.x.weight"),
    ],
)
def test_a_wrong_tensor_is_named(change: dict[str, Any], field: str) -> None:
    """A tensor of wrong shape, type or value is refused, and the error names it."""
    with pytest.raises(SnapshotError) as caught:
        Snapshot.from_bytes(encode({**parts(), **change}))
    assert caught.value.field == field


@pytest.mark.parametrize("missing", ["inputs", "targets", "weight"])
def test_a_missing_tensor_is_named(missing: str) -> None:
    """Leaving out a required tensor names it."""
    with pytest.raises(SnapshotError) as caught:
        Snapshot.from_bytes(encode({name: value for name, value in parts().items() if name != missing}))
    assert caught.value.field == missing


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"format": "gdsolver.snapshot/9"}, '__metadata__["snapshot"]'),
        ({"task": "ranking"}, "task"),
        ({"activation": "swish"}, "activation"),
        ({"activation": "leaky_relu:nan"}, "activation"),
        ({"activation": 3}, "activation"),
        ({"tail": ["relu"]}, "tail.0.weight"),
        ({"tail": "relu"}, "tail"),
        ({"note": []}, "note"),
        ({"colour": 1}, '__metadata__["snapshot"]'),
    ],
)
def test_wrong_metadata_is_named(metadata: dict[str, Any], field: str) -> None:
    """Metadata that is not as agreed is refused, and the error names the field."""
    with pytest.raises(SnapshotError) as caught:
        Snapshot.from_bytes(encode(parts(), **metadata))
    assert caught.value.field == field


def test_tail_layers_must_fit_each_other() -> None:
    """Each tail layer takes what the layer before it gives; targets follow the last one."""
    fits = TailLayer(np.ones((4, 3), np.float32), None, Activation.parse("relu"))
    last = TailLayer(np.ones((3, 4), np.float32), np.ones(3, np.float32), Activation.parse("leaky_relu:0.1"))
    snapshot = replace(small_snapshot(), activation=Activation.parse("relu"), tail=(fits, last))
    again = Snapshot.from_bytes(snapshot.to_bytes())
    assert [str(layer.activation) for layer in again.tail] == ["relu", "leaky_relu:0.1"]
    assert again.outputs == 3
    with pytest.raises(SnapshotError) as caught:
        replace(snapshot, tail=(last, fits))
    assert caught.value.field == "tail.0.weight"


def test_nested_lists_build_the_same_snapshot() -> None:
    """A small problem sent as nested lists equals the one sent as a file."""
    snapshot = small_snapshot()
    lists = {name: array.tolist() for name, array in snapshot.tensors().items()}
    again = Snapshot.from_lists(task="classification", activation="identity", tail=[], tensors=lists, note={})
    assert again.to_bytes() == snapshot.to_bytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inputs", [[1, 2, 3], [1]]),
        ("inputs", "text"),
        ("inputs", [[1e300] * 3] * 30),
        ("targets", [0.5] * 30),
        ("inputs", [[None] * 3] * 30),
    ],
)
def test_wrong_nested_lists_are_named(name: str, value: object) -> None:
    """Ragged, textual, infinite or fractional lists are refused, and the error names the tensor."""
    lists = {key: array.tolist() for key, array in parts().items()} | {name: value}
    with pytest.raises(SnapshotError) as caught:
        Snapshot.from_lists(task="classification", activation="identity", tail=[], tensors=lists, note={})
    assert caught.value.field == name


def labelled(task: str, targets: object, outputs: int) -> Snapshot:
    return Snapshot(
        task=task,  # type: ignore[arg-type]
        inputs=np.ones((2, 3), np.float32),
        targets=np.asarray(targets),
        weight=np.ones((outputs, 3), np.float32),
    )


@pytest.mark.parametrize(
    ("task", "targets", "outputs"),
    [("binary", [0, 1], 1), ("binary", [[0], [1]], 1), ("multilabel", [[0, 1], [1, 1]], 2), ("multilabel", [0, 1], 1)],
)
def test_labels_of_logits_travel(task: str, targets: list[object], outputs: int) -> None:
    """One logit and independent labels keep their shapes on the wire, as bytes and as lists."""
    snapshot = labelled(task, targets, outputs)
    again = Snapshot.from_bytes(snapshot.to_bytes())
    assert again.task == task
    np.testing.assert_array_equal(again.targets, targets)
    tensors = {name: array.tolist() for name, array in snapshot.tensors().items()}
    lists = Snapshot.from_lists(task=again.task, activation="identity", tail=[], tensors=tensors, note={})
    assert lists.to_bytes() == snapshot.to_bytes()


@pytest.mark.parametrize(
    ("task", "targets", "outputs", "field"),
    [
        ("binary", [0, 1], 2, "weight"),
        ("binary", [0, 2], 1, "targets"),
        ("binary", [0.0, 1.0], 1, "targets"),
        ("multilabel", [[0, 1], [-1, 1]], 2, "targets"),
        ("multilabel", [0, 1], 2, "targets"),
        ("classification", [0, 0], 1, "weight"),
    ],
)
def test_labels_that_do_not_fit_are_refused(task: str, targets: list[object], outputs: int, field: str) -> None:
    """The tensor at fault is named."""
    with pytest.raises(SnapshotError) as caught:
        labelled(task, targets, outputs)
    assert caught.value.field == field


def test_the_id_of_a_snapshot_has_not_changed() -> None:
    """Files written before there were binary tasks keep their bytes."""
    plain = Snapshot(
        task="classification",
        inputs=np.ones((1, 1), np.float32),
        targets=np.array([1]),
        weight=np.ones((2, 1), np.float32),
    )
    assert snapshot_id(plain.to_bytes()) == "78654383c8d08234fa40d2e65886676aa71da384bfe4d79c54cc7e30ced02cdd"


def test_offsets_of_tail_layers_travel_and_are_added() -> None:
    """A residual path is one more tensor a layer, in float16 too; a file without one stays as it was."""
    plain = small_snapshot()
    outputs, n = plain.outputs, plain.samples
    layer = TailLayer(np.eye(outputs, dtype=np.float32), None, Activation.parse("gelu"))
    without = replace(plain, tail=(layer,))
    assert "tail.0.offset" not in without.tensors()
    shift = np.linspace(-1, 1, n * outputs).reshape(n, outputs).astype(np.float32)
    again = Snapshot.from_bytes(replace(plain, tail=(replace(layer, offset=shift),)).to_bytes())
    np.testing.assert_array_equal(again.tail[0].offset, shift)
    scores = plain.inputs.astype(float) @ plain.weight.astype(float).T + plain.bias
    np.testing.assert_allclose(block_outputs(again, plain.weight, plain.bias), layer.activation(scores + shift))
    half = {**again.tensors(), "tail.0.offset": shift.astype(np.float16)}
    data = encode(half, task=plain.task, tail=["gelu"])
    assert Snapshot.from_bytes(data).tail[0].offset.dtype == np.float32


def test_an_offset_of_the_wrong_shape_is_named() -> None:
    """It has a row a sample and a column a unit of its layer."""
    plain = small_snapshot()
    layer = TailLayer(
        np.eye(plain.outputs, dtype=np.float32), None, Activation.parse("relu"), np.zeros((1, 1), np.float32)
    )
    with pytest.raises(SnapshotError) as caught:
        replace(plain, tail=(layer,))
    assert caught.value.field == "tail.0.offset"
