"""Weights with their result, as the safetensors file that a client downloads."""

import json
from typing import Any

import safetensors
import safetensors.numpy

from shared.contracts import JobResult
from solver_service.milp.core.moved import Moved


def encode(moved: Moved, result: JobResult | None = None) -> bytes:
    """Write weight [h, d], bias [h] and a moved tail's tensors, with the result's JSON in `__metadata__["result"]`."""
    tensors = {"weight": moved.weight, **moved.tail}
    if moved.bias is not None:
        tensors["bias"] = moved.bias
    metadata = None if result is None else {"result": json.dumps(result.model_dump(mode="json"))}
    return bytes(safetensors.numpy.save(tensors, metadata=metadata))


def decode(data: bytes) -> Moved:
    """Read the weights that `encode` wrote."""
    tensors: dict[str, Any] = safetensors.numpy.load(data)
    return Moved(tensors.pop("weight"), tensors.pop("bias", None), tensors)
