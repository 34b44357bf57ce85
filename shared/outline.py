"""A snapshot without its samples' numbers: all that a spec is checked against, read piece by piece from anywhere."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import SnapshotError
from shared.snapshot import ITEM_BYTES, MAX_HEADER_BYTES, Snapshot, assemble, decode, naming, read_header

PIECE_BYTES = 1024 * 1024
"""So much of the samples' numbers is in memory at a time."""

Read = Callable[[int, int], bytes]
"""Gives the bytes of a file from one place up to another, or up to its end if that comes first."""


def outline(read: Read, size: int) -> Snapshot:
    """Check a snapshot file of `size` bytes as `Snapshot.from_bytes` does, without ever holding its large tensors.

    Inputs [N, d] and offsets [N, h] are looked at as they pass; in the outline each is one number, its largest in
    size, repeated to its shape. That is enough for shapes, ranges and whatever speaks of weights and targets, and for
    nothing else. Raises SnapshotError.
    """
    length = int.from_bytes(read(0, 8), "little")
    head = read(0, 8 + min(length, MAX_HEADER_BYTES + 1))
    header, metadata = read_header(head)
    begins = _begins(header, size - len(head))
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        begin, dtype, shape = len(head) + begins[name], entry["dtype"], entry["shape"]
        with naming(name):
            if name.rpartition(".")[2] in ("inputs", "offset"):
                largest = _largest(read, begin, dtype, math.prod(shape), name)
                arrays[name] = np.broadcast_to(np.float32(largest), shape)
            else:
                arrays[name] = decode(read(begin, begin + math.prod(shape) * ITEM_BYTES[dtype]), dtype, shape)
    return assemble(metadata, arrays)


def nbytes(snapshot: Snapshot) -> int:
    """The memory that a snapshot takes, or its outline."""
    return sum(array.nbytes if any(array.strides) else array.itemsize for array in snapshot.tensors().values())


def _begins(header: dict[str, dict[str, Any]], size: int) -> dict[str, int]:
    """Where each tensor begins behind the header: they lie one behind the other, without a gap, up to the end."""
    begins: dict[str, int] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(item[0], item[1])):
        begin, after = _offsets(name, entry)
        if begin != end or after - begin != math.prod(entry["shape"]) * ITEM_BYTES[entry["dtype"]]:
            raise SnapshotError("not a safetensors file: data_offsets do not fit its shape or neighbours", field=name)
        begins[name], end = begin, after
    if end != size:
        raise SnapshotError(f"not a complete safetensors file: {size:,} bytes of tensors, the header names {end:,}")
    return begins


def _offsets(name: str, entry: dict[str, Any]) -> tuple[int, int]:
    found = entry.get("data_offsets")
    if not isinstance(found, list) or len(found) != 2 or not all(type(n) is int and 0 <= n < 2**63 for n in found):
        raise SnapshotError("data_offsets: expected two numbers", field=name)
    return found[0], found[1]


def _largest(read: Read, begin: int, dtype: str, elements: int, name: str) -> float:
    """The largest absolute value of a tensor of floats, which must all be finite."""
    largest = 0.0
    item = ITEM_BYTES[dtype]
    for done in range(0, elements, PIECE_BYTES // item):
        count = min(PIECE_BYTES // item, elements - done)
        piece = decode(read(begin + done * item, begin + (done + count) * item), dtype, [count])
        largest = max(largest, float(piece.max()), -float(piece.min()))  # NaN, wherever it is, comes out of both
        if not math.isfinite(float(piece.max())) or not math.isfinite(largest):
            raise SnapshotError("holds NaN or infinity; every value must be finite", field=name)
    return largest
