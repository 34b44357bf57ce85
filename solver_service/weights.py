"""Weights with their result, as the safetensors file that a client downloads."""

import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.numpy

from shared.contracts import JobResult
from shared.snapshot import FloatArray


def encode(
    weight: FloatArray,
    bias: FloatArray | None,
    result: JobResult | None = None,
    *,
    tail: Mapping[str, FloatArray] | None = None,
) -> bytes:
    """Write weight [h, d], bias [h] and a moved tail's tensors, with the result's JSON in `__metadata__["result"]`."""
    tensors = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    tensors |= dict(tail or {})
    metadata = None if result is None else {"result": json.dumps(result.model_dump(mode="json"))}
    return bytes(safetensors.numpy.save(tensors, metadata=metadata))


def decode(data: bytes) -> tuple[FloatArray, FloatArray | None]:
    """Read what `encode` wrote: (weight, bias)."""
    tensors: dict[str, Any] = safetensors.numpy.load(data)
    return tensors["weight"], tensors.get("bias")
