"""Shrinks a wide layer's snapshot to a few leading input directions, never leaving the box around its weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import linprog

from shared.snapshot import FloatArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Projection:
    """Orthonormal input directions P [d, m], and how far weights may move along each, r [m]."""

    directions: Array
    radii: Array

    def lift(self, change: NDArray[Any]) -> Array:
        """The change of the weights [h, d] for an answer U [h, m]: `U P^T`."""
        return np.asarray(change.astype(np.float64) @ self.directions.T)


def project(inputs: NDArray[Any], count: int, radius: float) -> Projection:
    """Choose the `count` leading directions of the inputs [N, d], and radii that keep every weight within `radius`.

    The inputs are not centred, so that the bias keeps its own box. The radii maximise `sum_l sd_l r_l` subject to
    `sum_l |P_jl| r_l <= radius` for every weight j (a linear program), sd_l being the spread along direction l.
    """
    values = inputs.astype(np.float64)
    directions = _leading_directions(values, count)
    spread = (values @ directions).std(axis=0)
    return Projection(directions, _largest_radii(np.abs(directions), spread, radius))


def _leading_directions(values: Array, count: int) -> Array:
    """The leading right singular vectors of [N, d], as columns [d, at most count], from the smaller Gram matrix.

    Only a few are wanted, so this is several times faster than a whole singular value decomposition.
    """
    tall = values.shape[0] >= values.shape[1]
    gram = values.T @ values if tall else values @ values.T
    size = len(gram)
    squares, vectors = eigh(gram, subset_by_index=[max(0, size - count), size - 1])
    kept = squares > 1e-10 * squares[-1]
    leading = vectors[:, kept][:, ::-1]
    orthonormal: Array = np.linalg.qr(leading if tall else values.T @ leading)[0]
    return orthonormal


def _largest_radii(magnitudes: Array, spread: Array, radius: float) -> Array:
    """Solve the linear program; where it fails, the uniform radius that is always safe."""
    limits = np.full(len(magnitudes), radius)
    answer = linprog(-spread, A_ub=magnitudes, b_ub=limits, bounds=(0, None), method="highs")
    if answer.x is None:
        return np.full(magnitudes.shape[1], radius / magnitudes.sum(axis=1).max())
    radii = np.maximum(np.asarray(answer.x, dtype=np.float64), 0.0)
    worst = float((magnitudes @ radii).max())
    return radii * min(1.0, radius / worst) if worst > 0 else radii


def clip_to_box(values: NDArray[Any], centre: FloatArray, radius: float) -> FloatArray:
    """Round to float32 inside `[centre - radius, centre + radius]`, exactly: compared in float64 arithmetic."""
    middle = centre.astype(np.float64)
    clipped: FloatArray = np.clip(values, middle - radius, middle + radius).astype(np.float32)
    outside = np.abs(clipped.astype(np.float64) - middle) > radius
    inside: FloatArray = np.where(outside, np.nextafter(clipped, centre), clipped).astype(np.float32)
    return inside
