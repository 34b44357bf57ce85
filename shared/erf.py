"""The error function in numpy alone, because neither the trainer's nor the gateway's image carries scipy."""

import math

import numpy as np
from numpy.typing import NDArray

_STEP, _LAST = 1.0 / 64.0, 6.0
_KNOTS = np.arange(-_LAST, _LAST + _STEP / 2, _STEP)
_VALUES = np.array([math.erf(knot) for knot in _KNOTS])
_SLOPES = 2.0 / math.sqrt(math.pi) * np.exp(-np.square(_KNOTS))


def erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The error function, elementwise, to about 1e-13.

    Taylor's series around the nearest of 769 knots: with f = erf, f'' = -2 k f', f''' = (4 k^2 - 2) f' and so on
    (Hermite's polynomials), five terms over at most 1/128 are enough. Beyond +-6 it is +-1 to the last digit.
    """
    inside = np.clip(x, -_LAST, _LAST)
    index = np.rint((inside + _LAST) / _STEP).astype(np.int64)
    k = _KNOTS[index]
    t = inside - k
    square = k * k
    # Hermite's polynomials H1 to H4 with alternating signs, over 2!, 3!, 4!, 5!
    series = 1.0 + t * (
        -k + t * ((2 * square - 1) / 3 + t * (k * (3 - 2 * square) / 6 + t * ((4 * square - 12) * square + 3) / 30))
    )
    return np.asarray(_VALUES[index] + _SLOPES[index] * t * series)
