"""Tells by values which activation turned pre-activations into what the next layer took in."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shared.activations import IDENTITY, SMOOTH, Activation

Array = NDArray[np.float64]
TINY = 1e-30
STEEPEST = 0.999
"""A leaky slope beyond which rounding makes the identity."""
FEW = 8
"""Samples of a first, quick look."""


@dataclass(frozen=True)
class Precision:
    """How exactly a model computes: `unit` is the distance of 1 from the next number, `ulps` how many ops may cost."""

    unit: float
    ulps: float

    def noise(self, put_out: NDArray[Any], taken_in: NDArray[Any]) -> Array:
        """How far an elementwise operation may be off, entry by entry."""
        return np.asarray(self.ulps * self.unit * (2.0 * np.abs(put_out) + 0.5 * np.abs(taken_in)) + TINY)

    def differ(self, values: NDArray[Any], others: NDArray[Any]) -> bool:
        """Whether two passes gave different values; some kernels add up in another order each time."""
        return bool((np.abs(values - others) > self.noise(values, np.abs(values).max(initial=0.0))).any())


MODULES: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.Hardtanh: "hardtanh",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.ELU: "elu",
}


def seen_as(module: nn.Module) -> Activation | None:
    """The activation that a module is by its type and settings."""
    match module:
        case nn.LeakyReLU() if 0 <= module.negative_slope < 1:
            return Activation("leaky_relu", float(module.negative_slope))
        case nn.Hardtanh() if (module.min_val, module.max_val) != (-1.0, 1.0):
            return None
        case nn.GELU() if module.approximate != "none":
            return None
        case nn.Softplus() if (module.beta, module.threshold) != (1, 20):
            return None
        case nn.ELU() if module.alpha != 1.0:
            return None
    return next((Activation(name) for kind, name in MODULES.items() if isinstance(module, kind)), None)


def candidates(slope: float | None) -> Iterator[Activation]:
    """Activations to try, identity last: it is the one that is wrong unnoticed. `slope` is that of negative values."""
    yield Activation("relu")
    if slope is not None and 0 < slope < STEEPEST:
        yield from (Activation("leaky_relu", value) for value in _round_near(slope))
    yield from (Activation(name) for name in ("hardtanh", *SMOOTH))
    yield IDENTITY


def slope_of(before: Array, after: Array) -> float | None:
    """What negative values were multiplied by, if they were; the largest tell it most exactly."""
    return _ratio(np.where(before < 0, before, 0.0), after)


def slope_of_moves(before: Sequence[Array], after: Sequence[Array]) -> float | None:
    """The same where something constant was added: by how far values moved that stayed negative."""
    negative = (before[0] < 0) & (before[1] < 0)
    return _ratio(np.where(negative, before[1] - before[0], 0.0), after[1] - after[0])


def _ratio(before: Array, after: Array) -> float | None:
    size = np.abs(before).reshape(-1)
    largest = np.argsort(-size)[:1000]
    largest = largest[size[largest] > 0]
    return float(np.median(after.reshape(-1)[largest] / before.reshape(-1)[largest])) if len(largest) else None


def _round_near(slope: float) -> Iterator[float]:
    """The slope as a person would have written it, if it is that, else as measured."""
    rounded = (float(f"{slope:.{digits}g}") for digits in (1, 2, 3, 4))
    yield from (value for value in rounded if value < 1)
    yield slope


def fits(activation: Activation, before: Array, after: Array, noise: Array) -> bool:
    """Whether `after = activation(before)` for all values but for `noise`; a few are looked at first."""
    if len(before) > FEW and not fits(activation, before[:FEW], after[:FEW], noise[:FEW]):
        return False
    return bool((np.abs(activation(before) - after) <= noise).all())


def recognise(
    before: Array, after: Array, precision: Precision, seen: Activation | None, size: Array | None = None
) -> Activation | None:
    """The activation that turns `before` into `after`, all values considered; None if no known one does.

    `seen` is what the module between them says; where several fit, it is believed. `size` is that of the terms that
    `before` is the sum of, where it is one.
    """
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return None
    noise = precision.noise(after, before if size is None else 4.0 * size)
    hinted = (seen,) if seen else ()
    every = (*hinted, *candidates(slope_of(before, after)))
    return next((found for found in every if fits(found, before, after, noise)), None)


def why_unknown(before: Array, after: Array, precision: Precision) -> str:
    """A name for an activation that the wire does not have, "" if it has none here either."""
    for name, function in UNSUPPORTED.items():
        if bool((np.abs(function(before) - after) <= precision.noise(after, before)).all()):
            return name
    low, high = float(after.min()), float(after.max())
    if fits_clamp(before, after, precision, low, high):
        return f"a clamp to [{low:.4g}, {high:.4g}]"
    return ""


def fits_clamp(before: Array, after: Array, precision: Precision, low: float, high: float) -> bool:
    """Whether values are only cut off below and above."""
    return bool((np.abs(np.clip(before, low, high) - after) <= precision.noise(after, before)).all())


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1.0))


def _selu(x: Array) -> Array:
    return np.asarray(1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0.0))))


UNSUPPORTED: dict[str, Callable[[Array], Any]] = {
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "hardswish": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "hardsigmoid": lambda x: np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "gelu with the tanh approximation": lambda x: (
        0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
    ),
    "mish": lambda x: x * np.tanh(np.logaddexp(0.0, x)),
    "selu": _selu,
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "logsigmoid": lambda x: -np.logaddexp(0.0, -x),
}
"""Activations that a snapshot cannot hold, by the name to refuse them under."""
