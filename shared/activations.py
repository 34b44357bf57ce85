"""The activations a block or a tail layer may have: piecewise linear ones can be proven, smooth ones are searched."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.erf import erf
from shared.errors import SnapshotError

Array = NDArray[np.float64]

LEAKY = "leaky_relu:"
PIECEWISE = ("identity", "relu", "leaky_relu", "hardtanh")
SMOOTH = ("gelu", "silu", "tanh", "sigmoid", "softplus", "elu")
NAMES = f"identity, relu, leaky_relu:SLOPE (0 <= SLOPE < 1), hardtanh, {', '.join(SMOOTH)}"


@dataclass(frozen=True)
class Activation:
    """One activation, as named on the wire; the smooth ones are those of PyTorch with its default settings."""

    name: str
    slope: float = 0.0

    @classmethod
    def parse(cls, text: object, field: str = "activation") -> Self:
        """Read a wire name such as ``relu`` or ``leaky_relu:0.01``; SnapshotError names the field otherwise."""
        if isinstance(text, str):
            if text in ("identity", "relu", "hardtanh", *SMOOTH):
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

    @property
    def piecewise_linear(self) -> bool:
        """Whether a mixed-integer model can hold it."""
        return self.name in PIECEWISE

    def __call__(self, values: Array) -> Array:
        """Apply it elementwise; never overflows, and keeps float32 arrays float32."""
        match self.name:
            case "relu":
                return np.maximum(values, 0.0)
            case "leaky_relu":
                return np.where(values > 0, values, self.slope * values)
            case "hardtanh":
                return np.clip(values, -1.0, 1.0)
        smooth = _VALUES.get(self.name)
        return values if smooth is None else smooth(values)

    def derivative(self, values: Array) -> Array:
        """The slope at given pre-activations; at a kink, that of the right side."""
        match self.name:
            case "relu" | "leaky_relu":
                return np.where(values >= 0, 1.0, self.slope)
            case "hardtanh":
                return ((values >= -1) & (values < 1)).astype(np.float64)
        smooth = _SLOPES.get(self.name)
        return np.ones_like(values) if smooth is None else smooth(values)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1.0))


def _normal(x: Array) -> Array:
    """The standard normal distribution function."""
    return np.asarray(0.5 * (1.0 + erf(x * math.sqrt(0.5))))


def _density(x: Array) -> Array:
    return np.asarray(np.exp(-0.5 * np.square(np.clip(x, -38.0, 38.0))) * (1.0 / math.sqrt(2.0 * math.pi)))


def _silu_slope(x: Array) -> Array:
    gate = _sigmoid(x)
    return np.asarray(gate * (1.0 + x * (1.0 - gate)))


_VALUES: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: x * _normal(x),
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": lambda x: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
}
_SLOPES: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: _normal(x) + x * _density(x),
    "silu": _silu_slope,
    "tanh": lambda x: 1.0 - np.square(np.tanh(x)),
    "sigmoid": lambda x: _sigmoid(x) * _sigmoid(-x),
    "softplus": _sigmoid,
    "elu": lambda x: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0.0))),
}

IDENTITY = Activation("identity")
