"""The true optimum of tiny blocks with activations and tails: every activation pattern, a linear program for each.

It shares no code with the solver. Patterns are walked through sample by sample and unit by unit; a branch that no
change of the weights reaches is left at once. `mse` becomes a quadratic program per pattern.
"""

from itertools import chain

import numpy as np
from oracle import EPS, INFINITE, linear_program
from scipy.optimize import linprog, minimize

GIVEN_UP = ("zero_one", "ramp", "outliers")
"""Objectives that let a sample go at its full price."""


def pieces(activation):
    """The linear pieces (from, to, slope, constant) of an activation's wire name."""
    if activation == "identity":
        return [(-np.inf, np.inf, 1.0, 0.0)]
    if activation == "hardtanh":
        return [(-np.inf, -1.0, 0.0, -1.0), (-1.0, 1.0, 1.0, 0.0), (1.0, np.inf, 0.0, 1.0)]
    slope = 0.0 if activation == "relu" else float(activation.removeprefix("leaky_relu:"))
    return [(-np.inf, 0.0, slope, 0.0), (0.0, np.inf, 1.0, 0.0)]


def optimum(snapshot, spec, *, room=0.0):
    """The least objective over the box; with some `room`, right samples have to be right by as much."""
    found = _Search(snapshot, spec, room)
    found.sample(0, [], [], 0.0)
    return found.best


class _Search:
    """A pre-activation, output or error is a pair (row, constant) over the change of weights and biases in the box."""

    def __init__(self, snapshot, spec, room):
        self.snapshot, self.spec, self.room = snapshot, spec, room
        self.h, self.d = snapshot.weight.shape
        radius = np.full((self.h, self.d + 1), spec.radius)
        radius[:, -1] = 0.0 if snapshot.bias is None else (spec.bias_radius or spec.radius)
        self.box = radius.ravel()
        weights = np.ones(snapshot.samples) if snapshot.sample_weight is None else snapshot.sample_weight
        self.w = weights.astype(float)
        self.live = np.flatnonzero(self.w > 0)
        self.best = np.inf

    def sample(self, place, rows, outputs, paid):
        """Go on with the sample at a place; `rows` [(row, need)] say what `row . x >= need` holds so far."""
        if paid >= self.best:
            return
        if place == len(self.live):
            self.finish(rows, outputs, paid)
            return
        n = self.live[place]
        for more, output in self.patterns(n, rows):
            self.sample(place + 1, more, [*outputs, (n, output)], paid)
            if self.spec.objective in GIVEN_UP:
                self.sample(place + 1, more, outputs, paid + self.w[n])

    def patterns(self, n, rows):
        """Every pattern of one sample that some change reaches: its rows, and the outputs."""
        snap = self.snapshot
        before = []
        for unit in range(self.h):
            row = np.zeros((self.h, self.d + 1))
            row[unit, :-1], row[unit, -1] = snap.inputs[n], 1.0
            level = float(snap.weight[unit].astype(float) @ snap.inputs[n].astype(float))
            for added in (snap.bias, None if snap.offset is None else snap.offset[n]):
                level += 0.0 if added is None else float(added[unit])
            before.append((row.ravel(), level))
        yield from self.layer(0, before, [], rows)

    def layer(self, index, before, values, rows):
        """Choose the pieces of a layer's remaining units; `values` are those of the units that are done."""
        tail = self.snapshot.tail
        if not before:
            if index == len(tail):
                yield rows, values
                return
            weight = tail[index].weight.astype(float)
            bias = np.zeros(len(weight)) if tail[index].bias is None else tail[index].bias.astype(float)
            following = [
                (
                    sum(a * row for a, (row, _) in zip(line, values, strict=True)),
                    float(b) + sum(a * level for a, (_, level) in zip(line, values, strict=True)),
                )
                for line, b in zip(weight, bias, strict=True)
            ]
            yield from self.layer(index + 1, following, [], rows)
            return
        (row, level), rest = before[0], before[1:]
        activation = self.snapshot.activation if index == 0 else tail[index - 1].activation
        for low, high, slope, constant in pieces(str(activation)):
            asked = [(row, low - level)] if low > -np.inf else []
            asked += [(-row, level - high)] if high < np.inf else []
            if not asked or self.reached([*rows, *asked]):
                value = (slope * row, slope * level + constant)
                yield from self.layer(index, rest, [*values, value], [*rows, *asked])

    def reached(self, rows):
        """Whether some change in the box keeps all rows."""
        return self.minimise(np.zeros(len(self.box)), rows) is not None

    def minimise(self, cost, rows):
        """The LP's value; columns beyond the change are slacks >= 0."""
        extra = len(cost) - len(self.box)
        matrix = np.array([np.pad(row, (0, len(cost) - len(row))) for row, _ in rows]).reshape(len(rows), len(cost))
        lower = np.concatenate([-self.box, np.zeros(extra)])
        upper = np.concatenate([self.box, np.full(extra, INFINITE)])
        return linear_program(cost, matrix, np.array([need for _, need in rows]), lower, upper)

    def finish(self, rows, outputs, paid):
        """The convex problem that one pattern leaves: hard rows for counts, slacks or squares otherwise."""
        name = self.spec.objective
        if name == "mse":
            found = self.squares(rows, outputs)
        else:
            terms, prices = self.terms(outputs)
            columns = len(self.box) + len(prices)
            asked = list(rows)
            for slot, term in enumerate(terms):
                for row, need in term:
                    wide = np.pad(row, (0, columns - len(row)))
                    if prices:
                        wide[len(self.box) + (0 if name == "max_error" else slot)] = 1.0
                    asked.append((wide, need))
            found = self.minimise(np.concatenate([np.zeros(len(self.box)), prices]), asked)
        if found is not None:
            self.best = min(self.best, paid + found)

    def terms(self, outputs):
        """Rows (row, need) by slack: `row . x + slack >= need`, and the slacks' prices (none where rows are hard)."""
        spec, y = self.spec, self.snapshot.targets
        if self.snapshot.task == "classification":
            need = EPS + self.room if spec.objective == "zero_one" else spec.margin
            terms = [
                [
                    (values[y[n]][0] - row, need - values[y[n]][1] + level)
                    for k, (row, level) in enumerate(values)
                    if k != y[n]
                ]
                for n, values in outputs
            ]
            hard = spec.objective == "zero_one"
            return terms, [] if hard else [self.w[n] / spec.margin for n, _ in outputs]
        both = [
            [[(-row, level - y[n][k]), (row, y[n][k] - level)] for k, (row, level) in enumerate(values)]
            for n, values in outputs
        ]
        if spec.objective == "mae":
            share = self.snapshot.targets.shape[1] * self.w.sum()
            return list(chain(*both)), [self.w[n] / share for n, values in outputs for _ in values]
        if spec.objective == "max_error":
            return [list(chain(*chain(*both)))], [1.0]
        slack = spec.tolerance - self.room
        return [[(row, need - slack) for pair in pairs for row, need in pair] for pairs in both], []

    def squares(self, rows, outputs):
        """The quadratic program of `mse`."""
        y = self.snapshot.targets
        share = self.snapshot.targets.shape[1] * self.w.sum()
        root = [np.sqrt(self.w[n] / share) for n, values in outputs for _ in values]
        matrix = np.array([row for _, values in outputs for row, _ in values]) * np.array(root)[:, None]
        level = np.array([level - y[n][k] for n, values in outputs for k, (_, level) in enumerate(values)]) * root
        return quadratic_program(matrix, level, rows, self.box)


def quadratic_program(matrix, level, rows, box):
    """The least `|matrix x + level|^2` over rows `row . x >= need`, which something keeps, and the box."""
    slopes, needs = np.array([row for row, _ in rows]).reshape(-1, len(box)), np.array([need for _, need in rows])
    kept = {"type": "ineq", "fun": lambda x: slopes @ x - needs, "jac": lambda x: slopes}
    bounds = [(-half, half) for half in box]

    def descend(start):
        return minimize(
            lambda x: float(((matrix @ x + level) ** 2).sum()),
            start,
            jac=lambda x: 2 * (matrix @ x + level) @ matrix,
            bounds=bounds,
            constraints=[kept] if rows else [],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )

    found = descend(np.zeros(len(box)))
    if found.status == 4:  # it calls rows incompatible now and then that it does not begin inside of
        inside = linprog(np.zeros(len(box)), A_ub=-slopes, b_ub=-needs, bounds=bounds)
        found = descend(inside.x)
    # 8: no step goes down any more, within rounding.
    assert found.status in (0, 8), found.message
    return found.fun
