"""The piecewise-linear activations a block or a tail layer may have."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.errors import SnapshotError

LEAKY = "leaky_relu:"
NAMES = "identity, relu, leaky_relu:SLOPE (0 <= SLOPE < 1), hardtanh"


@dataclass(frozen=True)
class Activation:
    """One piecewise-linear activation, as named on the wire."""

    name: str
    slope: float = 0.0

    @classmethod
    def parse(cls, text: object, field: str = "activation") -> Self:
        """Read a wire name such as ``relu`` or ``leaky_relu:0.01``; SnapshotError names the field otherwise."""
        if isinstance(text, str):
            if text in ("identity", "relu", "hardtanh"):
                return cls(text)
            if text.startswith(LEAKY):
                try:
                    slope = float(text.removeprefix(LEAKY))
                except ValueError:
                    slope = float("nan")
                if 0 <= slope < 1:
                    return cls("leaky_relu", slope)
        raise SnapshotError(f"{text!r:.80} is not an activation; use one of {NAMES}", field=field)

    def __str__(self) -> str:
        return f"{LEAKY}{self.slope!r}" if self.name == "leaky_relu" else self.name

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply it elementwise."""
        match self.name:
            case "relu":
                return np.maximum(values, 0.0)
            case "leaky_relu":
                return np.where(values > 0, values, self.slope * values)
            case "hardtanh":
                return np.clip(values, -1.0, 1.0)
        return values


IDENTITY = Activation("identity")
