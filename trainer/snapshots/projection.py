"""Shrinks a wide layer's snapshot to a few leading input directions, never leaving the box around its weights."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import linprog

from shared.snapshot import FloatArray

Array = NDArray[np.float64]

OVERSAMPLED, ITERATIONS = 16, 2
"""Of the subspace iteration: directions beyond those that are wanted, and rounds."""
ROWS_AT_ONCE = 256
"""Of the linear program: for the usual 64 directions that is nearly always enough at once."""


@dataclass(frozen=True, eq=False)
class Projection:
    """Orthonormal input directions P [d, m], and how far weights may move along each, r [m]."""

    directions: Array
    radii: Array

    def within(self, radius: float) -> "Projection":
        """That of a box `radius` times as wide: directions are those of the inputs, and radii grow with the box."""
        return replace(self, radii=radius * self.radii)

    def lift(self, change: NDArray[Any]) -> Array:
        """The change of the weights [h, d] for an answer U [h, m]: `U P^T`."""
        return np.asarray(change.astype(np.float64) @ self.directions.T)


def project(inputs: NDArray[Any], count: int, radius: float) -> Projection:
    """Choose the `count` leading directions of the inputs [N, d], and radii that keep every weight within `radius`.

    The inputs are not centred, so that the bias keeps its own box. The radii maximise `sum_l sd_l r_l` subject to
    `sum_l |P_jl| r_l <= radius` for every weight j (a linear program), sd_l being the spread along direction l.
    """
    values = inputs.astype(np.float32)
    values = values / max(float(np.abs(values).max(initial=0.0)), 1e-30)  # neither choice depends on their scale
    directions = _leading_directions(values, count)
    spread = (values @ directions.astype(np.float32)).std(axis=0).astype(np.float64)
    return Projection(directions, _largest_radii(np.abs(directions), spread, radius))


def _leading_directions(values: FloatArray, count: int) -> Array:
    """The leading right singular vectors of [N, d], as columns [d, at most count].

    Where more directions are there than are wanted by far, subspace iteration in single precision finds them (Halko,
    Martinsson and Tropp 2011, algorithm 4.4): of what `count` directions can hold they hold all but a thousandth, in a
    quarter of the time of an eigendecomposition. The background thread shares a core with the training loop.
    """
    width = count + OVERSAMPLED
    start = np.eye(min(values.shape), dtype=np.float32)
    if min(values.shape) > 2 * width:
        start = np.random.default_rng(0).standard_normal((min(values.shape), width), dtype=np.float32)
    wide = values if values.shape[0] >= values.shape[1] else values.T  # [larger, smaller]: one side of the Gram matrix
    for _ in range(ITERATIONS if start.shape[1] == width else 0):
        start = np.linalg.qr(wide.T @ (wide @ start))[0]
    image = (wide @ start).astype(np.float64)  # [larger, width]
    squares, vectors = eigh(image.T @ image)
    kept = squares[-count:] >= 1e-10 * squares[-1]
    kept[:-1] &= squares[-1] > 0  # inputs that are all 0 have one direction as good as any
    vectors = vectors[:, -count:][:, kept][:, ::-1]
    leading = start @ vectors if wide is values else image @ vectors
    orthonormal: Array = np.linalg.qr(leading.astype(np.float64))[0]
    return orthonormal


def _largest_radii(magnitudes: Array, spread: Array, radius: float) -> Array:
    """Solve the linear program; where it fails, the uniform radius that is always safe.

    Few of its rows bind, so it begins with those that are largest and takes in others as they are broken: the same
    optimum in a fraction of the time.
    """
    most = np.argsort(-(magnitudes @ spread), kind="stable")
    chosen = most[:ROWS_AT_ONCE]
    while True:
        limits = np.full(len(chosen), radius)
        answer = linprog(
            -spread,
            A_ub=magnitudes[chosen],
            b_ub=limits,
            bounds=(0, None),
            method="highs-ds",
            options={"presolve": False},  # of what is this small and dense it takes longer than it saves
        )
        if answer.x is None:
            return np.full(magnitudes.shape[1], radius / magnitudes.sum(axis=1).max())
        radii = np.maximum(np.asarray(answer.x, dtype=np.float64), 0.0)
        reached = magnitudes @ radii
        broken = np.setdiff1d(np.flatnonzero(reached > radius * (1 + 1e-6)), chosen)
        if not len(broken):
            break
        worst_first = broken[np.argsort(-reached[broken], kind="stable")]
        chosen = np.concatenate([chosen, worst_first[:ROWS_AT_ONCE]])
    worst = float(reached.max(initial=0.0))
    return radii * min(1.0, radius / worst) if worst > 0 else radii


def clip_to_box(values: NDArray[Any], centre: FloatArray, radius: float) -> FloatArray:
    """Round to float32 inside `[centre - radius, centre + radius]`, exactly: compared in float64 arithmetic."""
    middle = centre.astype(np.float64)
    clipped: FloatArray = np.clip(values, middle - radius, middle + radius).astype(np.float32)
    outside = np.abs(clipped.astype(np.float64) - middle) > radius
    inside: FloatArray = np.where(outside, np.nextafter(clipped, centre), clipped).astype(np.float32)
    return inside
