"""How large a job's numbers can get, told from sizes alone, so that an outline of a snapshot is enough.

A value that float64 does not hold can be neither compared nor told. Bounds here are crude, by norms; where one is below
MOST, no sum or product on the way to an objective's value overflows.
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from shared.snapshot import Snapshot, values_of

LARGEST = 3.4e38
"""About the largest float32: no weight is larger, and none may move farther than this."""
MOST = 1e300
"""Values up to here are far enough from the end of float64, 1.8e308, for whatever is summed or scaled on the way."""


@dataclass(frozen=True)
class Reach:
    """How far weights, biases and each tail layer may be from the snapshot's."""

    weight: float = 0.0
    bias: float = 0.0
    tail: tuple[float, ...] = ()


AT_THE_START = Reach()


def largest(array: NDArray[Any] | None) -> float:
    """The largest absolute value of an array; 0 where there is none."""
    if array is None:
        return 0.0
    values = values_of(array)
    return max(abs(float(values.max())), abs(float(values.min())))


def largest_output(snapshot: Snapshot, reach: Reach = AT_THE_START) -> float:
    """No output of the network is larger than this, for weights within reach: norms, multiplied layer by layer."""
    size = largest(snapshot.inputs) * (largest(snapshot.weight) + reach.weight) * snapshot.inputs.shape[1]
    size += largest(snapshot.bias) + reach.bias + largest(snapshot.offset)
    for index, layer in enumerate(snapshot.tail):
        farther = reach.tail[index] if reach.tail else 0.0
        size = max(size, 1.0) * (largest(layer.weight) + farther) * layer.weight.shape[1]
        size += largest(layer.bias) + farther + largest(layer.offset)
    return float(size)
