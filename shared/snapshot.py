"""Stall snapshots: what a job is solved from, to and from safetensors, trusted by nobody before it is checked."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from shared.activations import IDENTITY, Activation
from shared.errors import ErrorCode, SnapshotError
from shared.plain import is_utf8

FORMAT = "gdsolver.snapshot/1"
MAX_ELEMENTS = 64 * 1024 * 1024
MAX_HEADER_BYTES = 1024 * 1024
MAX_TAIL_LAYERS = 32
MAX_RANK = 2
"""No tensor has more axes."""
MAX_DEPTH = 50
"""So deep may JSON be nested: whoever reads it has room for that, however deep in calls of their own."""

_deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize

Task = Literal["classification", "regression", "binary", "multilabel"]
TASKS: tuple[Task, ...] = get_args(Task)
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_FLOATS = ("F16", "BF16", "F32")
_DTYPES = {
    "inputs": _FLOATS,
    "offset": _FLOATS,
    "weight": ("F32",),
    "bias": ("F32",),
    "targets": ("I64", "F32"),
    "sample_weight": ("F32",),
    "group": ("I64",),
    "radius": ("F32",),
    "bias_radius": ("F32",),
}
ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "I64": 8}
_ENTRY_FIELDS = {"dtype", "shape", "data_offsets"}
_METADATA_FIELDS = {"format", "task", "activation", "tail", "note"}


@dataclass(frozen=True, eq=False)
class TailLayer:
    """A layer behind the block: weight [out, in], bias [out] or None, and its activation.

    `offset` [N, out], where there is one, is added to each sample's pre-activation: a residual path around the block.
    """

    weight: FloatArray
    bias: FloatArray | None
    activation: Activation
    offset: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One stall, checked: block inputs [N, d], targets, weight [h, d] and what else DESIGN section 4 lists.

    The task says what targets are: classes [N] (classification: K scores; binary: one logit and classes 0 and 1, [N] or
    [N, 1]), labels 0 and 1 of K independent logits [N, K] (multilabel), or values [N, K] (regression).

    Constructing one validates it; SnapshotError names the tensor, its shape and what was expected.
    """

    task: Task
    inputs: FloatArray
    targets: FloatArray | IntArray
    weight: FloatArray
    bias: FloatArray | None = None
    activation: Activation = IDENTITY
    tail: tuple[TailLayer, ...] = ()
    offset: FloatArray | None = None
    sample_weight: FloatArray | None = None
    group: IntArray | None = None
    radius: FloatArray | None = None
    bias_radius: FloatArray | None = None
    note: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def samples(self) -> int:
        """N, the number of samples."""
        return int(self.inputs.shape[0])

    @property
    def outputs(self) -> int:
        """K, the width of the last layer: classes or regression targets."""
        return int((self.tail[-1].weight if self.tail else self.weight).shape[0])

    @property
    def classes(self) -> int:
        """How many classes a sample can be of: K, or 2 where one logit tells two apart."""
        return 2 if self.task == "binary" else self.outputs

    @property
    def is_final_identity(self) -> bool:
        """True for the paper's case: the block is the output layer and has no activation."""
        return not self.tail and self.activation == IDENTITY

    def shapes(self) -> dict[str, list[int]]:
        """Every tensor's shape, by its wire name."""
        return {name: list(array.shape) for name, array in self.tensors().items()}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors that are present, by their wire names."""
        names = _DTYPES.keys()
        found = {name: getattr(self, name) for name in names}
        for index, layer in enumerate(self.tail):
            found[f"tail.{index}.weight"] = layer.weight
            found[f"tail.{index}.bias"] = layer.bias
            found[f"tail.{index}.offset"] = layer.offset
        return {name: array for name, array in found.items() if array is not None}

    def to_bytes(self) -> bytes:
        """Encode as safetensors; the same snapshot always gives the same bytes, and so the same id."""
        metadata = {
            "format": FORMAT,
            "task": self.task,
            "activation": str(self.activation),
            "tail": [str(layer.activation) for layer in self.tail],
            "note": dict(self.note),
        }
        tensors = {name: np.ascontiguousarray(array) for name, array in self.tensors().items()}
        return bytes(safetensors.numpy.save(tensors, metadata={"snapshot": json.dumps(metadata, sort_keys=True)}))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Snapshot":
        """Decode and check safetensors bytes; nothing is allocated before the header is believed."""
        header, metadata = read_header(data)
        try:
            raw = dict(_deserialize(data))
        except safetensors.SafetensorError as error:
            raise SnapshotError(f"not a complete safetensors file: {error}") from error
        arrays: dict[str, NDArray[Any]] = {}
        for name, entry in header.items():
            with naming(name):
                arrays[name] = decode(raw[name]["data"], entry["dtype"], entry["shape"])
        return assemble(metadata, arrays)

    @classmethod
    def from_lists(
        cls, *, task: Task, activation: str, tail: list[str], tensors: Mapping[str, object], note: Mapping[str, Any]
    ) -> "Snapshot":
        """Build one from nested lists, as small problems travel inside a job spec."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, values in tensors.items():
            dtypes = _allowed_dtypes(name, len(tail))
            integral = "I64" in dtypes and (name != "targets" or task != "regression")
            try:
                array = np.asarray(values)
            except ValueError as error:
                raise SnapshotError("nested lists of unequal length", field=name) from error
            if array.dtype.kind not in ("iu" if integral else "iuf"):
                raise SnapshotError(f"expected {'integers' if integral else 'numbers'}", field=name)
            with np.errstate(over="ignore"):
                arrays[name] = array.astype(np.int64 if integral else np.float32)
        return assemble({"task": task, "activation": activation, "tail": tail, "note": note}, arrays)


def assemble(metadata: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> Snapshot:
    """Build a snapshot from what its header says and its tensors by wire name; SnapshotError if one is missing."""
    _require_shallow(metadata["note"], "note")
    for name in ("inputs", "targets", "weight"):
        if name not in arrays:
            raise SnapshotError("this tensor is required", field=name)
    tail = []
    for index, text in enumerate(metadata["tail"]):
        weight = arrays.pop(f"tail.{index}.weight", None)
        if weight is None:
            raise SnapshotError("this tensor is required: metadata names a tail layer", field=f"tail.{index}.weight")
        bias = arrays.pop(f"tail.{index}.bias", None)
        offset = arrays.pop(f"tail.{index}.offset", None)
        tail.append(TailLayer(weight, bias, Activation.parse(text, f"tail[{index}]"), offset))
    return Snapshot(
        task=metadata["task"],
        activation=Activation.parse(metadata["activation"]),
        tail=tuple(tail),
        note=metadata["note"],
        **arrays,
    )


def snapshot_id(data: bytes) -> str:
    """The id of a snapshot: SHA-256 of its bytes, in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def read_header(data: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Read and check the safetensors header alone: (tensor entries, snapshot metadata).

    It takes nothing that the safetensors library refuses, which reads the same file in a worker.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise SnapshotError("not a safetensors file: the header is missing, cut off or over 1 MiB")
    header = _read_strictly(data[8 : 8 + length])
    metadata = _read_metadata(header.pop("__metadata__", None))
    total = 0
    for name, entry in header.items():
        total += _check_entry(name, entry, _allowed_dtypes(name, len(metadata["tail"])))
        if total > MAX_ELEMENTS:
            raise SnapshotError(
                f"shape {entry['shape']}: more than {MAX_ELEMENTS:,} elements in all; send fewer samples or project "
                "the inputs",
                field=name,
                code=ErrorCode.TOO_LARGE,
            )
    return header, metadata


def _read_strictly(text: bytes) -> dict[str, Any]:
    """Read a header as strictly as safetensors does: no name twice, no NaN, nothing below 0, not even -0."""
    try:
        header = json.loads(text.decode(), object_pairs_hook=_once_each, parse_constant=_refused, parse_int=_natural)
    except (ValueError, RecursionError) as error:
        detail = f"it has {error}" if isinstance(error, _NotStrictError) else "it is not JSON"
        raise SnapshotError(f"not a safetensors file: the header cannot be read, {detail}") from error
    if not isinstance(header, dict):
        raise SnapshotError("not a safetensors file: the header is not an object")
    _require_shallow(header, "snapshot")
    return header


class _NotStrictError(ValueError):
    """A header that is JSON to some readers only."""


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotStrictError("a name twice")
    return found


def _refused(word: str) -> None:
    raise _NotStrictError(f"{word} in it")


def _natural(digits: str) -> int:
    if digits.startswith("-"):
        raise _NotStrictError("a negative number in it")
    return int(digits)


def _check_entry(name: str, entry: object, allowed: tuple[str, ...]) -> int:
    """Check what a header says of one tensor; how many elements that has."""
    if not isinstance(entry, dict) or entry.get("dtype") not in allowed:
        found = entry.get("dtype") if isinstance(entry, dict) else entry
        raise SnapshotError(f"dtype {found!r:.40}, expected {' or '.join(allowed)}", field=name)
    if unknown := entry.keys() - _ENTRY_FIELDS:
        known = ", ".join(sorted(_ENTRY_FIELDS))
        raise SnapshotError(f"unknown fields {sorted(unknown)!r:.120}; known are {known}", field=name)
    shape = entry.get("shape")
    whole = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**40 for n in shape)
    if not isinstance(shape, list) or not whole or not 0 < len(shape) <= MAX_RANK:
        raise SnapshotError(f"shape {shape!r:.80}: expected a list of one or two positive sizes", field=name)
    return math.prod(shape)


def _require_shallow(value: object, field_name: str) -> None:
    if _is_deeper(value, MAX_DEPTH):
        raise SnapshotError(f"nested more than {MAX_DEPTH} deep; send less of it", field=field_name[:80])


def _is_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects are nested in so many levels of others."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(levels == 0 or _is_deeper(part, levels - 1) for part in parts)


def _read_metadata(found: object) -> dict[str, Any]:
    """Check `__metadata__["snapshot"]`: JSON with format, task, activation, tail and note."""
    field_name = '__metadata__["snapshot"]'
    for name, value in found.items() if isinstance(found, dict) else ():
        if not isinstance(value, str) or not is_utf8(name + value):
            raise SnapshotError("expected text that UTF-8 can hold", field=f"__metadata__[{name[:60]!a}]")
    text = found.get("snapshot") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise SnapshotError("missing; it holds the snapshot's JSON description", field=field_name)
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SnapshotError("not JSON", field=field_name) from error
    if not isinstance(metadata, dict):
        raise SnapshotError("expected a JSON object", field=field_name)
    for name, part in metadata.items():
        _require_shallow(part, name)
    if metadata.get("format") != FORMAT:
        raise SnapshotError(f"format {metadata.get('format')!r:.60}, expected {FORMAT!r}", field=field_name)
    if unknown := metadata.keys() - _METADATA_FIELDS:
        raise SnapshotError(f"unknown fields {sorted(unknown)!r:.120}", field=field_name)
    full = {"activation": "identity", "tail": [], "note": {}, **metadata}
    if full.get("task") not in TASKS:
        raise SnapshotError(f"{full.get('task')!r:.60}: use {' or '.join(map(repr, TASKS))}", field="task")
    if not isinstance(full["tail"], list) or len(full["tail"]) > MAX_TAIL_LAYERS:
        raise SnapshotError(f"expected a list of at most {MAX_TAIL_LAYERS} activations", field="tail")
    if not isinstance(full["note"], dict):
        raise SnapshotError("expected a JSON object", field="note")
    return full


def _allowed_dtypes(name: str, tail_layers: int) -> tuple[str, ...]:
    if name in _DTYPES:
        return _DTYPES[name]
    parts = name.split(".")
    if len(parts) == 3 and parts[0] == "tail" and parts[2] in ("weight", "bias", "offset") and parts[1].isascii():
        if parts[1].isdigit() and str(int(parts[1])) == parts[1] and int(parts[1]) < tail_layers:
            return _FLOATS if parts[2] == "offset" else ("F32",)
        raise SnapshotError(f"no such tail layer: metadata names {tail_layers}", field=name[:80])
    raise SnapshotError(
        f"unknown tensor; known are {', '.join(_DTYPES)} and tail.I.weight, tail.I.bias, tail.I.offset", field=name[:80]
    )


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name the tensor of which something is wrong that only numpy notices, or nobody yet."""
    try:
        yield
    except SnapshotError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise SnapshotError(f"cannot be read as its dtype and shape say: {error}", field=name) from error


def decode(data: bytes | bytearray, dtype: str, shape: list[int]) -> NDArray[Any]:
    """One tensor's bytes as an array: float32 or int64. SnapshotError where bytes are missing."""
    if len(data) != math.prod(shape) * ITEM_BYTES[dtype]:
        raise SnapshotError("not a complete safetensors file: it is cut off")
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    numpy_dtype = {"F16": np.float16, "F32": np.float32, "I64": np.int64}[dtype]
    array = np.frombuffer(data, numpy_dtype).reshape(shape)
    return array.astype(np.float32) if dtype == "F16" else array


def _check(snap: Snapshot) -> None:
    """Check every shape, dtype and value against the others."""
    if snap.inputs.ndim != 2:
        raise SnapshotError(f"shape {list(snap.inputs.shape)}, expected [N, d]", field="inputs")
    n, d = snap.inputs.shape
    if snap.weight.ndim != 2 or snap.weight.shape[1] != d:
        raise SnapshotError(
            f"shape {list(snap.weight.shape)}, expected [h, {d}] (inputs have {d} columns)", field="weight"
        )
    h = snap.weight.shape[0]
    if min(n, d, h) == 0:
        raise SnapshotError("no samples, inputs or units", field="inputs")
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "bias": ((h,),),
        "offset": ((n, h),),
        "sample_weight": ((n,),),
        "group": ((n,),),
        "radius": ((h, d), (d,)),
        "bias_radius": ((h,),),
    }
    width = h
    for index, layer in enumerate(snap.tail):
        if layer.weight.ndim != 2 or layer.weight.shape[1] != width:
            raise SnapshotError(
                f"shape {list(layer.weight.shape)}, expected [out, {width}] to fit the layer before it",
                field=f"tail.{index}.weight",
            )
        width = layer.weight.shape[0]
        shapes[f"tail.{index}.bias"] = ((width,),)
        shapes[f"tail.{index}.offset"] = ((n, width),)
    one_column = ((n, width), (n,)) if width == 1 else ((n, width),)
    shapes["targets"] = {"classification": ((n,),), "binary": ((n,), (n, 1))}.get(snap.task, one_column)
    tensors = snap.tensors()
    for name, expected in shapes.items():
        if name in tensors and tensors[name].shape not in expected:
            wanted = " or ".join(str(list(shape)) for shape in expected)
            raise SnapshotError(f"shape {list(tensors[name].shape)}, expected {wanted}", field=name)
    _check_values(snap, tensors, width)


def _check_values(snap: Snapshot, tensors: dict[str, NDArray[Any]], width: int) -> None:
    integral = {"group"} | ({"targets"} if snap.task != "regression" else set())
    for name, array in tensors.items():
        wanted = np.int64 if name in integral else np.float32
        if array.dtype != wanted:
            raise SnapshotError(f"dtype {array.dtype}, expected {np.dtype(wanted)} for a {snap.task} task", field=name)
        if array.dtype == np.float32 and not np.isfinite(values_of(array)).all():
            raise SnapshotError("holds NaN or infinity; every value must be finite", field=name)
    if snap.task == "classification" and width < 2:
        raise SnapshotError(
            f"a classification needs at least 2 output units, found {width}; one logit is the task 'binary'",
            field="weight",
        )
    if snap.task == "binary" and width != 1:
        raise SnapshotError(
            f"a binary task has one output unit, found {width}; use 'classification' for one score a class, or "
            "'multilabel' for independent labels",
            field="weight",
        )
    if snap.task != "regression":
        low, high = int(snap.targets.min()), int(snap.targets.max())
        most = width - 1 if snap.task == "classification" else 1
        if low < 0 or high > most:
            raise SnapshotError(f"classes {low} to {high}, expected 0 to {most}", field="targets")
    for name in ("sample_weight", "radius", "bias_radius"):
        if name in tensors and (tensors[name] < 0).any():
            raise SnapshotError("holds negative values; expected all >= 0", field=name)
    if snap.bias_radius is not None and (snap.radius is None or snap.bias is None):
        raise SnapshotError("only together with `radius` and `bias`", field="bias_radius")
    if snap.sample_weight is not None and not (snap.sample_weight > 0).any():
        raise SnapshotError("every sample has weight 0", field="sample_weight")


def values_of(array: NDArray[Any]) -> NDArray[Any]:
    """All different values of an array, which may be one value repeated to a shape (as `shared.outline` makes them)."""
    return array if any(array.strides) else array.flat[:1]


def class_targets(snapshot: Snapshot) -> IntArray:
    """Each sample's class [N], whether a binary snapshot sent them as [N] or [N, 1]."""
    return cast(IntArray, snapshot.targets).reshape(snapshot.samples)


def label_targets(snapshot: Snapshot) -> IntArray:
    """The labels 0 and 1 of a binary or multilabel snapshot [N, K]."""
    return cast(IntArray, snapshot.targets).reshape(snapshot.samples, -1)


def regression_targets(snapshot: Snapshot) -> NDArray[np.float64]:
    """Targets of a regression as float64 [N, K], whether sent as [N] or [N, 1]."""
    return cast(FloatArray, snapshot.targets).reshape(snapshot.samples, -1).astype(np.float64)
