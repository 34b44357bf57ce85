"""One nonzero for another, each pair scored with the rest fitted anew, in a layer of one output; then kicks and fills.

A second derivative alone does not know that another column of the support says the same. Here a column out is the
loss of its part that no other has, and a column in the gain of what is left then, beside the others: for squares both
are exact (orthogonal least squares, Chen, Billings and Luo 1989), for other losses they are those of Newton's step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from solver_service.milp.core.problem import Array, Index, Mask
from solver_service.milp.final_layer.convex.program import ConvexProgram

MOST_WORK = 5e8
"""Multiplications of one look at all pairs; what takes more is left to splicing."""
LARGEST = 20_000_000
"""Inputs of which no copy is made."""
STEPS, HALVINGS, FLAT, RIDGE = 12, 6, 1e-6, 1e-9
"""Newton steps of a fit and halvings of one; curvature and diagonal, as a part of the most, that are never missed."""
CLOSE, GAIN = 1e-9, 1e-6
"""The part of a value by which a step, and an exchange, has to lower it."""
CURVED = ("mse", "huber", "log_loss")
"""Losses of whose ends the curvature tells more than at which samples a corner is."""
ALIKE = 1e-6
"""A column of which so little is left beside the others says nothing of its own."""
TRIED = 5
"""So many of the best pairs are fitted; of squares the first one is as good as it says."""
AMONG = 0.6
"""A fill takes the best column this often, the next one as often of what is left, and so on."""
NEAR = 1.3
"""Ends that are so much worse than the best by the program may be better by the objective that it stands for."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights [s] of the columns `columns` [s], the value there, and slope and curvature by each score [n]."""

    columns: Index
    weights: Array
    value: float
    slope: Array
    curvature: Array


@dataclass(frozen=True, eq=False)
class _Parts:
    """Of a fit, in root-curvature units: a `basis` [n, s] of its columns, and `own` [n, s], what each has alone.

    `parts` [s] is how much of the fit each column's own direction makes up.
    """

    basis: Array
    own: Array
    parts: Array


class Exchanges:
    """The search over supports of one program; `counted` [d] are the columns of which `most` may differ from 0."""

    def __init__(self, program: ConvexProgram, silent: Array, counted: Mask, kept: Mask, most: int) -> None:
        problem = program.problem
        moves, self._inputs = problem.radius[0] > 0, problem.inputs
        counted, kept = (np.append(one, False) for one in (counted, kept))
        self._low, self._high = (problem.center[0] + sign * problem.radius[0] for sign in (-1.0, 1.0))
        self._loss, fixed = program.loss, np.flatnonzero(~moves)
        self._silent = silent[:, 0] + self._inputs[:, fixed] @ problem.center[0, fixed]
        self._always = np.flatnonzero(moves & (~counted | kept))
        self.candidates: Index = np.flatnonzero(moves & counted & ~kept)
        self._columns = np.ascontiguousarray(self._inputs[:, self.candidates])
        self._size: tuple[Array, Array] | None = None
        self.most = min(most - int((kept & counted).sum()), self.candidates.size)
        self._ridge = np.full(len(moves), 2.0 * program.l2)
        self._ridge[-1] = 0.0
        self._least = FLAT * program.loss.most_curvature * program.cost

    @classmethod
    def of(
        cls, program: ConvexProgram, silent: Array, sparse: list[tuple[Mask, int]], kept: Mask
    ) -> "Exchanges | None":
        """The search of a program of one output and one count, where a look is short enough; else None."""
        known = program.problem.objective.name in CURVED and program.loss.curvature is not None
        if len(kept) != 1 or len(sparse) != 1 or not known or program.prices.any():
            return None
        counted, most = sparse[0]
        if program.problem.inputs.size > LARGEST:
            return None
        found = cls(program, silent, counted[0], kept[0], most)
        width = found.most + found._always.size
        long = program.problem.inputs.size * width > MOST_WORK or width >= len(silent)
        return None if long or not 0 < found.most < found.candidates.size else found

    def support(self, fit: Fit) -> Index:
        """The counted columns of a fit."""
        return np.asarray(fit.columns[self._always.size :])

    def grown(self, support: Index, rng: np.random.Generator | None = None) -> Fit:
        """A fit after the columns that gain most, one after another, or nearly most, are added up to the count."""
        fit = self.fit(support)
        while len(fit.columns) < self._always.size + self.most:
            support = self.support(fit)
            rank = 0 if rng is None else min(int(rng.geometric(AMONG)) - 1, self.candidates.size - support.size - 1)
            gains = self._gains(fit)
            best = np.argpartition(-gains, rank)[: rank + 1]
            fit = self.fit(np.append(support, self.candidates[best[np.argmin(gains[best])]]))
        return fit

    def exchanged(self, fit: Fit, over: Callable[[], bool]) -> Fit:
        """Where exchanges of one column for another end that each lower the value."""
        while not over():
            better = next((one for one in self._tried(fit) if one.value < fit.value * (1 - GAIN)), None)
            if better is None:
                break
            fit = better
        return fit

    def kicked(self, fit: Fit, rng: np.random.Generator) -> Fit:
        """Some columns out at random, few or many, and others in."""
        support = self.support(fit)
        out = int(rng.integers(1, max(2, support.size))) if support.size > 1 else 1
        return self.grown(rng.permutation(support)[out:], rng)

    def fit(self, support: Index) -> Fit:
        """The value with a support, by Newton's method in the box."""
        columns = np.concatenate([self._always, support]).astype(np.int64)
        inputs, low, high = self._inputs[:, columns], self._low[columns], self._high[columns]
        now = self._at(columns, inputs, np.clip(np.zeros(columns.size), low, high))
        for _ in range(STEPS):
            step = self._newton(inputs, now)
            tried = (
                self._at(columns, inputs, np.clip(now.weights + step * 0.5**halving, low, high))
                for halving in range(HALVINGS)
            )
            after = next((one for one in tried if one.value < now.value * (1 - CLOSE)), None)
            if after is None:
                break
            now = after
        return now

    def _at(self, columns: Index, inputs: Array, weights: Array) -> Fit:
        scores = (self._silent + inputs @ weights)[:, None]
        value, slope = self._loss.value_and_slope(scores)
        assert self._loss.curvature is not None
        curvature = np.maximum(self._loss.curvature(scores)[0][:, 0], self._least)
        value += 0.5 * float(self._ridge[columns] @ weights**2)
        return Fit(columns, weights, value, slope[:, 0], curvature)

    def _newton(self, inputs: Array, fit: Fit) -> Array:
        ridge = self._ridge[fit.columns]
        hessian = (inputs.T * fit.curvature) @ inputs
        hessian.flat[:: len(hessian) + 1] += ridge + RIDGE * float(hessian.trace()) + 1e-300
        return np.asarray(np.linalg.solve(hessian, -(inputs.T @ fit.slope + ridge * fit.weights)))

    def _parts(self, fit: Fit) -> _Parts:
        """A basis of a fit's columns, and each one's own direction, with the rows of a ridge below the samples'."""
        inputs = np.sqrt(fit.curvature)[:, None] * self._inputs[:, fit.columns]
        below = np.diag(np.sqrt(self._ridge[fit.columns] + RIDGE * float(np.square(inputs).sum())))
        basis, upper = np.linalg.qr(np.concatenate([inputs, below]))
        own = basis @ np.linalg.inv(upper).T
        length = np.linalg.norm(own, axis=0)
        rows = len(inputs)
        return _Parts(basis[:rows], own[:rows] / length, fit.weights / length)

    def _left(self, fit: Fit, parts: _Parts) -> tuple[Array, Array]:
        """How each candidate meets what is left [m], and the square of its part beside a fit's columns [m]."""
        if self._size is None or not np.array_equal(self._size[0], fit.curvature):  # of squares always the same
            size = np.einsum("n,nm,nm->m", fit.curvature, self._columns, self._columns)
            self._size = fit.curvature, size + self._ridge[self.candidates]
        size, root = self._size[1], np.sqrt(fit.curvature)[:, None]
        own = size - np.square((root * parts.basis).T @ self._columns).sum(axis=0)
        own[(own < ALIKE * size) | np.isin(self.candidates, fit.columns)] = np.inf
        return -fit.slope @ self._columns, own

    def _gains(self, fit: Fit) -> Array:
        """What each candidate [m] would gain beside a fit's columns."""
        meets, own = self._left(fit, self._parts(fit))
        return np.asarray(meets**2 / own)

    def _tried(self, fit: Fit) -> Iterator[Fit]:
        """Fits after the exchanges that promise most."""
        first, parts, support = self._always.size, self._parts(fit), self.support(fit)
        meets, own = self._left(fit, parts)
        along = (np.sqrt(fit.curvature)[:, None] * parts.own[:, first:]).T @ self._columns  # [k, m]
        lost = parts.parts[first:, None]
        net = (meets + along * lost) ** 2 / (own + along**2) - lost**2
        best = np.argpartition(-net, min(TRIED, net.size - 1), axis=None)[:TRIED]
        best = best[np.argsort(-net.flat[best], kind="stable")]
        pairs = [divmod(int(one), self.candidates.size) for one in best if net.flat[one] > 0]
        return (self.fit(np.append(np.delete(support, out), self.candidates[into])) for out, into in pairs)
