"""Moved weights to and from the result file (`shared.result` owns its form)."""

from shared.contracts import JobResult
from shared.result import read_weights, write_weights
from solver_service.milp.core.moved import Moved


def encode(moved: Moved, result: JobResult | None = None) -> bytes:
    """The file of what a solve has moved, with its result if it has ended."""
    return write_weights(moved.weight, moved.bias, moved.tail, result)


def decode(data: bytes) -> Moved:
    """Read the weights that `encode` wrote."""
    return Moved(*read_weights(data))
