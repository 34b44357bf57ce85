"""Tiny random snapshots of every shape, and their optima by exhaustive search that shares no code with the solver."""

from itertools import combinations

import numpy as np
from scipy.optimize import linprog, minimize

from shared.contracts import JobSpec
from shared.objectives import EPSILON, margins, outputs, sample_weights
from shared.snapshot import Snapshot


def tiny(seed, objective, *, n=6, d=2, h=3, bias=True, offset=False, weighted=False, own_radii=False):
    """A stalled layer small enough to enumerate, and the job that asks for its optimum."""
    rng = np.random.default_rng(seed)
    classification = objective in ("zero_one", "ramp", "hinge")
    tensors = {
        "inputs": rng.normal(size=(n, d)).astype(np.float32),
        "weight": rng.normal(scale=0.5, size=(h, d)).astype(np.float32),
        "targets": rng.integers(0, h, n) if classification else rng.normal(size=(n, h)).astype(np.float32),
    }
    if bias:
        tensors["bias"] = rng.normal(scale=0.5, size=h).astype(np.float32)
    if offset:
        tensors["offset"] = rng.normal(scale=0.5, size=(n, h)).astype(np.float32)
    if weighted:
        tensors["sample_weight"] = rng.integers(0, 4, n).astype(np.float32) / 2 + np.float32(0.0)
        tensors["sample_weight"][0] = 1.5
    if own_radii:
        tensors["radius"] = rng.uniform(0, 0.6, (h, d)).astype(np.float32)
        if bias:
            tensors["bias_radius"] = rng.uniform(0, 0.6, h).astype(np.float32)
    snapshot = Snapshot(task="classification" if classification else "regression", **tensors)
    return snapshot, job(objective, radius=None if own_radii else 0.3, bias_radius=None if own_radii else 0.2)


def job(objective, *, radius=0.3, time_s=20.0, **fields):
    """A spec with defaults that fit tiny problems."""
    limits = {"time_s": time_s} | fields.pop("limits", {})
    tolerance = 0.5 if objective == "outliers" else None
    return JobSpec(objective=objective, radius=radius, tolerance=tolerance, limits=limits, **fields)


def box(snapshot, spec):
    """Half-widths of weight [h, d] and bias [h], as the wire contract words them."""
    h, d = snapshot.weight.shape
    if snapshot.radius is not None:
        weight = np.broadcast_to(snapshot.radius, (h, d)).astype(np.float64)
        bias = snapshot.bias_radius
    else:
        weight, bias = np.full((h, d), spec.radius), np.full(h, spec.bias_radius or spec.radius)
    return weight, np.zeros(h) if snapshot.bias is None else np.asarray(bias, dtype=np.float64)


def optimum(snapshot, spec):
    """The objective's true minimum over the box."""
    found = _Exhaustive(snapshot, spec)
    ways = {
        "zero_one": lambda: found.count(EPSILON, found.margin_rows()),
        "outliers": lambda: found.count(-spec.tolerance, found.error_rows()),
        "ramp": found.ramp,
        "hinge": lambda: found.hinge(range(found.n)),
        "mae": lambda: found.absolute(shared=False),
        "max_error": lambda: found.absolute(shared=True),
        "mse": found.squares,
    }
    return ways[spec.objective]()


class _Exhaustive:
    def __init__(self, snapshot, spec):
        self.spec, self.snapshot = spec, snapshot
        keep = sample_weights(snapshot) > 0
        self.w = sample_weights(snapshot)[keep]
        self.g = np.hstack([snapshot.inputs, np.ones((snapshot.samples, 1))]).astype(float)[keep]
        self.p = outputs(snapshot, snapshot.weight, snapshot.bias)[keep]
        self.y = snapshot.targets[keep]
        self.n, self.h = self.p.shape
        weight, bias = box(snapshot, spec)
        self.radius = np.hstack([weight, bias[:, None]])
        self.size = self.radius.size

    def score(self, n, unit):
        """(level, gradient) of one score."""
        gradient = np.zeros_like(self.radius)
        gradient[unit] = self.g[n]
        return self.p[n, unit], gradient.ravel()

    def margin_rows(self):
        """For every sample the (level, gradient) of its margins."""
        rows = []
        for n in range(self.n):
            own, slope = self.score(n, self.y[n])
            rivals = [self.score(n, k) for k in range(self.h) if k != self.y[n]]
            rows.append([(own - level, slope - gradient) for level, gradient in rivals])
        return rows

    def error_rows(self):
        """For every sample -|error| from both sides, to be >= -tolerance."""
        rows = []
        for n in range(self.n):
            scores = [(self.score(n, k), self.y[n][k]) for k in range(self.h)]
            above = [(y - level, -slope) for (level, slope), y in scores]
            rows.append(above + [(level - y, slope) for (level, slope), y in scores])
        return rows

    def linear(self, cost, rows, limits, extra_bounds):
        bounds = [(-r, r) for r in self.radius.ravel()] + extra_bounds
        return linprog(cost, A_ub=np.array(rows) if rows else None, b_ub=limits or None, bounds=bounds)

    def count(self, need, rows):
        subsets = [kept for size in range(self.n + 1) for kept in combinations(range(self.n), size)]
        subsets.sort(key=lambda kept: -self.w[list(kept)].sum())
        for kept in subsets:
            wanted = [row for n in kept for row in rows[n]]
            matrix, limits = [-slope for _, slope in wanted], [level - need for level, _ in wanted]
            if self.linear(np.zeros(self.size), matrix, limits, []).status == 0:
                return self.w.sum() - self.w[list(kept)].sum()
        raise AssertionError("keeping nothing is always possible")

    def hinge(self, kept):
        margin, rows = self.spec.margin, self.margin_rows()
        matrix, limits = [], []
        for n in kept:
            slack = np.zeros(self.n)
            slack[n] = -margin
            matrix += [np.concatenate([-slope, slack]) for _, slope in rows[n]]
            limits += [level - margin for level, _ in rows[n]]
        cost = np.concatenate([np.zeros(self.size), self.w])
        return self.linear(cost, matrix, limits, [(0, None)] * self.n).fun

    def ramp(self):
        subsets = (kept for size in range(self.n + 1) for kept in combinations(range(self.n), size))
        return min(self.hinge(kept) + self.w.sum() - self.w[list(kept)].sum() for kept in subsets)

    def absolute(self, *, shared):
        matrix, limits = [], []
        errors = 1 if shared else self.n * self.h
        for n, rows in enumerate(self.error_rows()):
            for index, (level, slope) in enumerate(rows):
                slack = np.zeros(errors)
                slack[0 if shared else n * self.h + index % self.h] = -1
                matrix.append(np.concatenate([-slope, slack]))
                limits.append(level)
        per_error = np.ones(1) if shared else np.repeat(self.w, self.h) / (self.h * self.w.sum())
        return self.linear(np.concatenate([np.zeros(self.size), per_error]), matrix, limits, [(0, None)] * errors).fun

    def squares(self):
        def value(change):
            error = self.p + self.g @ change.reshape(self.radius.shape).T - self.y
            return float((self.w @ error**2).sum() / (self.h * self.w.sum()))

        bounds = [(-r, r) for r in self.radius.ravel()]
        found = minimize(value, np.zeros(self.size), bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15})
        return found.fun


def assert_honest(snapshot, spec, solution):
    """Hold what every result promises: in the box, recomputed, never worse, and a bound below the value."""
    weight, bias = box(snapshot, spec)
    assert solution.weight.dtype == np.float32
    assert (np.abs(solution.weight.astype(np.float64) - snapshot.weight) <= weight).all()
    assert (solution.bias is None) == (snapshot.bias is None)
    if snapshot.bias is not None:
        assert (np.abs(solution.bias.astype(np.float64) - snapshot.bias) <= bias).all()
    report = solution.result.objective
    assert report.final == spec.goal.value(snapshot, solution.weight, solution.bias)
    assert report.start == spec.goal.value(snapshot, snapshot.weight, snapshot.bias)
    assert 0 <= report.bound <= report.final <= report.start
    values = [incumbent.objective for incumbent in solution.result.incumbents]
    assert values == sorted(values, reverse=True)
    assert all(report.final <= value for value in values)


def smallest_margin(snapshot, solution):
    """The margin nearest to the zero_one threshold."""
    return np.abs(margins(outputs(snapshot, solution.weight, solution.bias), snapshot.targets) - EPSILON).min()
