"""CMA-ES in the box: the rival that needs no slope, for any objective and any constraint.

Hansen, "The CMA Evolution Strategy: A Tutorial" (2016): weighted recombination, cumulative step-size adaptation,
rank-one and rank-mu updates; a diagonal covariance where a full one is too large (Ros and Hansen, 2008).
"""

import math

import numpy as np

from benchmarks.rivals_case import Array, Case

FULL = 400
"""Dimensions up to which the covariance is a full matrix."""
PRICE = 1e6


def evolution(case: Case, rng: np.random.Generator) -> None:
    """One strategy after the other: from the snapshot, then with more offspring from the best or from anywhere."""
    offspring = 4 + int(3 * math.log(len(case.start)))
    runs = 0
    while case.clock.used < 1:
        anywhere = case.low + rng.random(len(case.start)) * (case.high - case.low)
        begin = case.start if runs == 0 else case.vector if runs % 2 else anywhere
        Strategy(case, rng, begin, 0.3 if runs % 2 == 0 else 0.1, offspring).run()
        offspring, runs = min(2 * offspring, 200), runs + 1


class Strategy:
    """One run of CMA-ES in units of the box's radii, with offspring clipped into it."""

    def __init__(self, case: Case, rng: np.random.Generator, begin: Array, size: float, offspring: int) -> None:
        self.case, self.rng, self.size, self.offspring = case, rng, size, offspring
        self.radius, self.middle = case.radius, (case.low + case.high) / 2
        safe = np.where(self.radius > 0, self.radius, 1.0)
        self.mean = np.where(self.radius > 0, (case.clip(begin) - self.middle) / safe, 0.0)
        self.dims = len(begin)
        ranks = math.log(offspring / 2 + 0.5) - np.log(np.arange(1, offspring // 2 + 1))
        self.weights = ranks / ranks.sum()
        self.effective = 1 / float((self.weights**2).sum())
        self.full = self.dims <= FULL
        self.covariance = np.eye(self.dims) if self.full else np.ones(self.dims)
        self.basis, self.scale = np.eye(self.dims if self.full else 1), np.ones(self.dims)
        self.path, self.step_path = np.zeros(self.dims), np.zeros(self.dims)

    def run(self) -> None:
        """Generations until the step has shrunk to nothing, nothing improves, or the clock is up."""
        best, idle, generation = math.inf, 0, 0
        while self.size > 1e-6 and idle < 50 + 10 * self.dims // self.offspring:
            drawn = self.rng.normal(size=(self.offspring, self.dims)) * self.scale
            steps = drawn @ self.basis.T if self.full else drawn
            points = np.clip(self.mean + self.size * steps, -1.0, 1.0)
            costs = np.empty(self.offspring)
            for index, point in enumerate(points):
                if not self.case.clock.step():
                    return
                costs[index] = self._cost(self.middle + point * self.radius)
            idle = 0 if costs.min() < best else idle + 1
            best, generation = min(best, float(costs.min())), generation + 1
            self._adapt(points[np.argsort(costs, kind="stable")[: len(self.weights)]], generation)

    def _cost(self, vector: Array) -> float:
        rounded = self.case.rounded(vector)
        value, broken = self.case.value(rounded), self.case.broken(rounded)
        if broken == 0 and value < self.case.best:
            self.case.offer(vector)
        return value + PRICE * broken

    def _adapt(self, parents: Array, generation: int) -> None:
        """Move the mean, then path, covariance and step size, by the tutorial's default rates."""
        n, mu = self.dims, self.effective
        rate_c, rate_s = (4 + mu / n) / (n + 4 + 2 * mu / n), (mu + 2) / (n + mu + 5)
        faster = 1.0 if self.full else (n + 2) / 3
        rate_1 = min(0.5, faster * 2 / ((n + 1.3) ** 2 + mu))
        rate_mu = min(1 - rate_1, faster * 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
        damping = 1 + 2 * max(0.0, math.sqrt((mu - 1) / (n + 1)) - 1) + rate_s
        steps = (parents - self.mean) / self.size
        move = self.weights @ steps
        self.mean = self.mean + self.size * move
        whitened = self.basis @ ((self.basis.T @ move) / self.scale) if self.full else move / self.scale
        self.step_path = (1 - rate_s) * self.step_path + math.sqrt(rate_s * (2 - rate_s) * mu) * whitened
        norm, expected = float(np.linalg.norm(self.step_path)), math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        steady = norm / math.sqrt(1 - (1 - rate_s) ** (2 * generation)) < (1.4 + 2 / (n + 1)) * expected
        self.path = (1 - rate_c) * self.path + steady * math.sqrt(rate_c * (2 - rate_c) * mu) * move
        if self.full:
            spread = (self.weights[:, None] * steps).T @ steps
            self.covariance = (1 - rate_1 - rate_mu) * self.covariance + rate_1 * np.outer(self.path, self.path)
            self.covariance += rate_mu * spread
            if generation % max(1, int(0.1 / ((rate_1 + rate_mu) * n))) == 0:
                values, self.basis = np.linalg.eigh((self.covariance + self.covariance.T) / 2)
                self.scale = np.sqrt(np.maximum(values, 1e-20))
        else:
            spread = self.weights @ steps**2
            self.covariance = (1 - rate_1 - rate_mu) * self.covariance + rate_1 * self.path**2 + rate_mu * spread
            self.scale = np.sqrt(np.maximum(self.covariance, 1e-20))
        self.size = min(1.0, self.size * math.exp(min(1.0, rate_s / damping * (norm / expected - 1))))
