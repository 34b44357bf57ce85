"""Branch and bound on a convex program: which weights are 0, and which multiple or level the others take.

A node is a box of changes. Its relaxation, the convex program without the constraints on single weights, bounds it
from below; its rounded solution, and the best that is left once the decided weights are pinned, are offered. A relaxed
weight between two multiples (or levels) splits its box there; of too many nonzero weights the largest is 0 or not.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

from shared.constraints import nearest_multiple, selected
from shared.snapshot import FloatArray
from solver_service.milp.core.problem import Array, Mask
from solver_service.milp.final_layer.convex.pinned_steps import step_along
from solver_service.milp.final_layer.convex.program import ConvexProgram, Minimum
from solver_service.milp.final_layer.job import Job
from solver_service.milp.rounding.into_box import weights_of
from solver_service.milp.rounding.snapping import grid_range, level_choices, snapped

TINY = 1e-9
"""Weights that differ by less than this share of what they can be are the same."""
CLOSED = 5e-7
"""A node that could gain no more than this share of the best value is closed."""


@dataclass(frozen=True, eq=False)
class Node:
    """Lowest and highest changes [h, c], and the weights [h, d] that count as not 0."""

    lower: Array
    upper: Array
    nonzero: Mask


class Branching:
    """The search tree of one job; `root` is the box that grids and levels leave."""

    def __init__(self, job: Job, program: ConvexProgram, over: Callable[[], bool] | None = None) -> None:
        self.job, self.program, self.problem = job, program, job.problem
        self._over = over or (lambda: job.budget().over)
        self.nodes = 0
        self._size = (np.abs(self.problem.center) + self.problem.radius)[:, :-1]
        steps, low, high = grid_range(self.problem)
        self._steps = np.where((steps > 0) & (low <= high), steps, 0.0)
        self._choices = level_choices(self.problem)
        self._sparse = [
            (selected(constraint, self._size.shape), int(min(constraint.value, self._size.size)))
            for constraint in self.problem.constraints
            if constraint.type == "max_nonzero"
        ]
        self._pinned: set[bytes] = set()
        self._leaves = math.inf  # the least bound of nodes that are open, but whose solution is allowed
        self.root = self._root(low, high)

    def run(self, least: Minimum, *, certain: bool) -> bool:
        """Search from the root's minimum until done (True), or until time, nodes or hope are used up.

        `certain` says that an exhausted tree is a proof: nothing else keeps weights from counting.
        """
        limit, bound = self.job.spec.limits.nodes, least.bound
        root = self._whole()
        order = count()
        heap: list[tuple[float, int, Node, Array]] = [(least.bound, next(order), root, least.change)]
        while heap and not (self._over() or self.job.proven):
            bound, _, node, start = heapq.heappop(heap)
            if certain:
                self.job.incumbents.raise_bound(min(bound, self._leaves))
            if self._closed(bound):
                break  # all others are closed, too
            if limit is not None and self.nodes >= limit:
                heapq.heappush(heap, (bound, next(order), node, start))
                break
            self.nodes += 1
            found = least
            if self.nodes > 1:
                found = self.program.minimise(node.lower, node.upper, start, self._over)
            if self._over():
                return False
            self._offer(node, found)
            if self._closed(found.bound):
                continue
            children = self._split(node, found.change)
            if children is None:
                self._leaves = min(self._leaves, found.bound)
            for child in children or ():
                heapq.heappush(heap, (max(bound, found.bound), next(order), child, found.change))
        done = not self._over() and (not heap or self._closed(bound))
        if done and certain and self.job.incumbents.feasible:
            self.job.incumbents.raise_bound(min(self.job.incumbents.best.objective * (1 - CLOSED), self._leaves))
        return done

    def fit(self, least: Minimum) -> None:
        """Round the root's minimum, and fit and step from there; `run` does not repeat it."""
        self.nodes, before = 1, self.nodes
        self._offer(self._whole(), least)
        self.nodes = before

    def decided_by(self, weight: FloatArray) -> tuple[Array, Array]:
        """The box [h, c] in which all that these weights decide is held where they have it."""
        lower, upper = (side.copy() for side in self.root)
        pinned = self._decided(weight)
        lower[:, :-1][pinned] = upper[:, :-1][pinned] = self._change(weight)[pinned]
        return lower, upper

    def _whole(self) -> Node:
        return Node(*self.root, np.zeros(self._size.shape, dtype=bool))

    def _closed(self, bound: float) -> bool:
        best = self.job.incumbents.best.objective
        return bound >= best * (1 - CLOSED)

    # --- solutions -------------------------------------------------------------------------------------------------

    def _offer(self, node: Node, found: Minimum) -> None:
        """Round a relaxed solution, fit all other weights to what is decided, and step along multiples and levels."""
        problem = self.problem
        self.job.incumbents.offer(found.change, nodes=self.nodes)
        weight = snapped(problem, weights_of(problem, found.change)[0])
        pinned = self._decided(weight)
        key = np.where(pinned, weight, np.nan).tobytes()
        if key in self._pinned:
            return
        self._pinned.add(key)
        lower, upper = node.lower.copy(), node.upper.copy()
        lower[:, :-1][pinned] = upper[:, :-1][pinned] = self._change(weight)[pinned]
        if (pinned != (self._size > 0)).any() or problem.radius[:, -1].any():
            fitted = self.program.minimise(lower, upper, found.change, self._over)
            self.job.incumbents.offer(fitted.change, nodes=self.nodes)
            if self.nodes == 1:
                step_along(self.job, self.program, fitted.change, self._neighbours, self._over)
        elif self.nodes == 1:
            step_along(self.job, self.program, found.change, self._neighbours, self._over)

    def _decided(self, weight: FloatArray) -> Mask:
        """The weights [h, d] that only take single values: on a grid, of a list, or 0 where zeros are asked for."""
        pinned = self._steps > 0
        for choice in self._choices:
            pinned = pinned | choice.chosen
        for chosen, _ in self._sparse:
            pinned = pinned | (chosen & (weight == 0))
        return np.asarray(pinned)

    def _neighbours(self, weight: FloatArray) -> list[FloatArray]:
        """The weights [h, d] with every gridded or listed one at its next value below, and at its next above."""
        found = []
        for sign in (-1.0, 1.0):
            with np.errstate(over="ignore"):
                moved = (weight + sign * self._steps).astype(np.float32)
            moved = np.where(np.isfinite(moved), moved, weight)
            for choice in self._choices:
                place = np.searchsorted(choice.values, weight[choice.chosen]) + int(sign)
                moved[choice.chosen] = choice.values[np.clip(place, 0, choice.values.size - 1)]
            found.append(moved)
        return found

    # --- boxes -----------------------------------------------------------------------------------------------------

    def _root(self, low: Array, high: Array) -> tuple[Array, Array]:
        lower, upper = self.program.box
        on = self._steps > 0
        for side, multiple, inner in ((lower, low, np.maximum), (upper, high, np.minimum)):
            ends = self._change((multiple * self._steps).astype(np.float32))
            side[:, :-1][on] = inner(side[:, :-1], ends)[on]
        for choice in self._choices:
            first = choice.values[choice.allowed.argmax(axis=1)]
            last = choice.values[::-1][choice.allowed[:, ::-1].argmax(axis=1)]
            lower[:, :-1][choice.chosen] = self._change_of(first, choice.chosen)
            upper[:, :-1][choice.chosen] = self._change_of(last, choice.chosen)
        return lower, np.maximum(lower, upper)

    def _change(self, weight: FloatArray | Array) -> Array:
        """The changes [h, d] that lead to these weights, clipped into the box."""
        return self._change_of(weight, np.ones(self._size.shape, dtype=bool)).reshape(self._size.shape)

    def _change_of(self, values: FloatArray | Array, chosen: Mask) -> Array:
        center, radius = self.problem.center[:, :-1][chosen], self.problem.radius[:, :-1][chosen]
        step = values.astype(np.float64).ravel() - center
        return np.clip(np.divide(step, radius, out=np.zeros_like(step), where=radius > 0), -1.0, 1.0)

    def _split(self, node: Node, change: Array) -> list[Node] | None:
        """The halves of a node, as far as they hold anything; None where its relaxed solution is allowed."""
        weight = (self.problem.center + self.problem.radius * change)[:, :-1]
        children = self._split_zeros(node, weight)
        return self._split_values(node, weight) if children is None else children

    def _split_zeros(self, node: Node, weight: Array) -> list[Node] | None:
        away = np.abs(weight) > TINY * self._size
        for chosen, most in self._sparse:
            open_ones = chosen & away & ~node.nonzero
            if (chosen & away).sum() <= most or not open_ones.any():
                continue
            place = np.unravel_index(int(np.where(open_ones, np.abs(weight), -1.0).argmax()), weight.shape)
            nonzero = node.nonzero.copy()
            nonzero[place] = True
            rest = np.zeros_like(chosen)
            rest[place] = True
            children = [self._zeroed(node, rest, node.nonzero)]
            taken = [int((members & nonzero).sum()) for members, _ in self._sparse]
            if all(number <= limit for number, (_, limit) in zip(taken, self._sparse, strict=True)):
                full = [
                    members & ~nonzero
                    for number, (members, limit) in zip(taken, self._sparse, strict=True)
                    if number == limit
                ]
                children.append(self._zeroed(node, np.logical_or.reduce([np.zeros_like(rest), *full]), nonzero))
            return [child for child in children if child is not None]
        return None

    def _zeroed(self, node: Node, zeros: Mask, nonzero: Mask) -> Node | None:
        """The node with these weights at 0; None where one cannot be 0."""
        at_zero = self._change(np.zeros(self._size.shape))
        lower, upper = node.lower.copy(), node.upper.copy()
        stuck = np.abs(self.problem.center[:, :-1] + self.problem.radius[:, :-1] * at_zero) > TINY * self._size
        within = (at_zero >= lower[:, :-1] - TINY) & (at_zero <= upper[:, :-1] + TINY)
        if (zeros & (stuck | ~within)).any():
            return None
        lower[:, :-1][zeros] = upper[:, :-1][zeros] = at_zero[zeros]
        return Node(lower, upper, nonzero)

    def _split_values(self, node: Node, weight: Array) -> list[Node] | None:
        below, above = weight.copy(), weight.copy()
        on = self._steps > 0
        below[on], above[on] = _multiples_around(weight[on], self._steps[on])
        for choice in self._choices:
            around = _levels_around(weight[choice.chosen], choice.values)
            below[choice.chosen], above[choice.chosen] = around
        between = np.minimum(weight - below, above - weight)
        place = np.unravel_index(int((between / np.where(self._size > 0, self._size, 1.0)).argmax()), weight.shape)
        if between[place] <= TINY * self._size[place]:
            return None
        down, up = node.upper.copy(), node.lower.copy()
        down[place] = self._change(below)[place]
        up[place] = self._change(above)[place]
        halves = [Node(node.lower, down, node.nonzero), Node(up, node.upper, node.nonzero)]
        return [half for half in halves if half.lower[place] <= half.upper[place] + TINY]


def _multiples_around(weight: Array, steps: Array) -> tuple[Array, Array]:
    """The multiples, as they are in float32, just below and above each weight [w]; twice the weight's own."""
    whole = np.rint(weight / steps)
    near = nearest_multiple(whole * steps, steps).astype(np.float64)
    other = nearest_multiple((whole + np.where(near <= weight, 1.0, -1.0)) * steps, steps).astype(np.float64)
    return np.minimum(near, other), np.maximum(near, other)


def _levels_around(weight: Array, values: FloatArray) -> tuple[Array, Array]:
    """The levels just below and above each weight [w]; the first or the last level, twice, beyond all others."""
    exact = values.astype(np.float64)
    place = np.searchsorted(exact, weight)
    return exact[np.maximum(place - 1, 0)], exact[np.minimum(place, exact.size - 1)]
