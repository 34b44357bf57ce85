"""The result file, both directions: weights with the job's result, as safetensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import safetensors
import safetensors.numpy

from shared.contracts import JobResult
from shared.errors import ResultError
from shared.snapshot import FloatArray


@dataclass(frozen=True, eq=False)
class Candidate:
    """A job's weights, before anybody decided about them: block weight [h, d] and bias [h], float32.

    `tail` holds `tail.I.weight` and `tail.I.bias` for a tail layer that moved; `data` are the bytes as they came.
    """

    weight: FloatArray
    bias: FloatArray | None
    result: JobResult
    tail: Mapping[str, FloatArray] = field(default_factory=dict)
    data: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a finished job's file; ResultError if it is not one, or holds NaN or infinity."""
        try:
            weight, bias, tail = read_weights(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            result = JobResult.model_validate_json(header["__metadata__"]["result"])
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ResultError(f"cannot be read: {error}") from error
        arrays = [weight, *tail.values(), *([] if bias is None else [bias])]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ResultError("holds NaN or infinity")
        return cls(weight=weight, bias=bias, result=result, tail=tail, data=data)


def write_weights(
    weight: FloatArray, bias: FloatArray | None, tail: Mapping[str, FloatArray], result: JobResult | None = None
) -> bytes:
    """The file of weights, with the result's JSON in `__metadata__["result"]` if the job has ended."""
    tensors = {"weight": weight, **tail} | ({} if bias is None else {"bias": bias})
    metadata = None if result is None else {"result": json.dumps(result.model_dump(mode="json"))}
    return bytes(safetensors.numpy.save(tensors, metadata=metadata))


def read_weights(data: bytes) -> tuple[FloatArray, FloatArray | None, dict[str, FloatArray]]:
    """Weight, bias and moved tail tensors of such a file; raises what safetensors and KeyError raise for another."""
    tensors: dict[str, Any] = safetensors.numpy.load(data)
    return tensors.pop("weight"), tensors.pop("bias", None), tensors
