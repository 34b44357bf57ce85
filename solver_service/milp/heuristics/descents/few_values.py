"""Changes brought to grids, levels and numbers of nonzeros in the middle of a descent: near enough, and fast.

Exact float32 values are the business of who offers a change (`rounding/snapping.py`).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from shared.constraints import selected
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.rounding.snapping import PINNING, grid_range, level_choices


@dataclass(frozen=True, eq=False)
class _Listed:
    """The chosen weights of one `levels`, their values, and the numbers [w] of the first and last in the box."""

    chosen: Mask
    values: Array
    first: Index
    last: Index

    def nearest(self, weight: Array) -> Array:
        between = (self.values[1:] + self.values[:-1]) / 2
        return self.values[np.clip(np.searchsorted(between, weight), self.first, self.last)]


@dataclass(frozen=True, eq=False)
class FewValues:
    """What a problem asks of single weights [h, d]: steps of grids with the box's multiples, lists, and most nonzeros.

    `weigh` [d] says what a weight of 1 moves scores by: the ones that move them least are made 0 first.
    """

    problem: Problem
    steps: Array
    low: Array
    high: Array
    listed: tuple[_Listed, ...]
    sparse: tuple[tuple[Mask, int], ...]
    weigh: Array

    @classmethod
    def of(cls, problem: Problem) -> Self | None:
        """None where nothing is asked of single weights."""
        if not any(constraint.type in PINNING for constraint in problem.constraints):
            return None
        steps, low, high = grid_range(problem)
        listed = []
        for choice in level_choices(problem):
            some, last = choice.allowed.any(axis=1), choice.values.size - 1
            first = np.where(some, choice.allowed.argmax(axis=1), 0)
            listed.append(
                _Listed(
                    choice.chosen,
                    choice.values.astype(np.float64),
                    first,
                    np.where(some, last - choice.allowed[:, ::-1].argmax(axis=1), last),
                )
            )
        half = (problem.radius > 0)[:, :-1] & (np.abs(problem.center) <= problem.radius)[:, :-1]
        sparse = tuple(
            (
                selected(constraint, half.shape) & half,
                int(constraint.value) - int((selected(constraint, half.shape) & ~half).sum()),
            )
            for constraint in problem.constraints
            if constraint.type == "max_nonzero"
        )
        size = np.sqrt(np.einsum("n,nc,nc->c", problem.cost, problem.inputs, problem.inputs))
        on = (steps > 0) & (low <= high)
        return cls(problem, np.where(on, steps, 0.0), low, high, tuple(listed), sparse, size[:-1])

    @property
    def stepped(self) -> bool:
        """Whether any weights are on grids or levels."""
        return bool((self.steps > 0).any()) or bool(self.listed)

    def settled(self, change: Array) -> Array:
        """The nearest change [h, c] on grids and levels."""
        weight = self._weights(change)
        on = self.steps > 0
        multiples = np.clip(np.rint(weight / np.where(on, self.steps, 1.0)), self.low, np.maximum(self.low, self.high))
        weight = np.where(on, multiples * self.steps, weight)
        for one in self.listed:
            weight[one.chosen] = one.nearest(weight[one.chosen])
        return self._change(weight, change)

    def thinned(self, change: Array, spared: float) -> Array:
        """The change [h, c] with as many zeros as are asked for, less a share, where scores notice them least."""
        weight = self._weights(change)
        for chosen, most in self.sparse:
            moves = np.where(chosen, np.abs(weight) * self.weigh, 0.0)
            zeros = int((1 - spared) * (int(chosen.sum()) - max(0, most)))
            order = np.argsort(np.where(chosen, moves, np.inf), axis=None, kind="stable")
            weight.flat[order[: max(0, zeros)]] = 0.0
        return self._change(weight, change)

    def _weights(self, change: Array) -> Array:
        return (self.problem.center + self.problem.radius * change)[:, :-1]

    def _change(self, weight: Array, before: Array) -> Array:
        found, radius = before.copy(), self.problem.radius[:, :-1]
        step = weight - self.problem.center[:, :-1]
        found[:, :-1] = np.divide(step, radius, out=np.zeros_like(step), where=radius > 0)
        return np.clip(found, -1.0, 1.0)
