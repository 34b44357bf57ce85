"""Activations against their textbook formulas, which are PyTorch's defaults, and slopes against differences."""

import math

import numpy as np
import pytest

from shared.activations import PIECEWISE, SMOOTH, Activation
from shared.erf import erf
from shared.errors import SnapshotError

FORMULAS = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
}
POINTS = np.linspace(-9, 9, 721) + 0.003


def test_the_error_function_is_exact_to_the_last_digits() -> None:
    """Against the standard library's, on both sides and far out."""
    points = np.concatenate([POINTS, [-1e300, -40.0, 0.0, 40.0, 1e300]])
    np.testing.assert_allclose(erf(points), [math.erf(x) for x in points], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_are_those_of_the_textbook(name: str) -> None:
    """With PyTorch's default settings: gelu is the exact one."""
    np.testing.assert_allclose(
        Activation.parse(name)(POINTS), [FORMULAS[name](x) for x in POINTS], rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("name", [*SMOOTH, *(f"{name}:0.1" if name == "leaky_relu" else name for name in PIECEWISE)])
def test_slopes_are_those_of_the_values(name: str) -> None:
    """Away from kinks a difference tells the slope; nothing overflows far out."""
    activation, step = Activation.parse(name), 1e-6
    change = (activation(POINTS + step) - activation(POINTS - step)) / (2 * step)
    np.testing.assert_allclose(activation.derivative(POINTS), change, atol=1e-8)
    far = np.array([-1e300, 1e300])
    assert np.isfinite(activation(far)).all()
    assert np.isfinite(activation.derivative(far)).all()


@pytest.mark.parametrize("name", [*SMOOTH, "relu", "leaky_relu:0.25"])
def test_names_survive_the_wire(name: str) -> None:
    """What is read is written again, and only piecewise linear ones say that they are."""
    activation = Activation.parse(name)
    assert str(activation) == name
    assert activation.piecewise_linear == (name not in SMOOTH)


def test_an_unknown_activation_names_those_that_are_known() -> None:
    """The cure is in the message."""
    with pytest.raises(SnapshotError, match="gelu, silu"):
        Activation.parse("swish")
