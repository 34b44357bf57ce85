"""The least value of mse, huber and log_loss in a box, under rows, with prices of movement: by SLSQP, from many starts.

A sequential quadratic method for general nonlinear programs, and values and gradients written out anew, so that nothing
is shared with the solver.
"""

import numpy as np
from scipy.optimize import minimize

STARTS = 2


class ConvexSearch:
    """One objective over samples of weights w [N]; inputs [N, d+1] have a last column of ones."""

    def __init__(self, snapshot, spec, inputs, offset, w, price):
        self.snapshot, self.spec, self.inputs, self.offset, self.w = snapshot, spec, inputs, offset, w
        self.price = price.ravel()
        self.own = np.hstack([snapshot.weight, np.zeros((len(snapshot.weight), 1))]).astype(np.float64).ravel()
        self.shape = price.shape

    def least(self, low, high, *, rows=(), total=None):
        """The best of a few runs; variables are the weights, and how far each priced one moves."""
        size, priced = low.size, np.flatnonzero(self.price)
        total = self.w.sum() if total is None else total
        cost = np.concatenate([np.zeros(size), self.price[priced]])
        bounds = [*zip(low.ravel(), high.ravel(), strict=True), *((0.0, None) for _ in priced)]
        limits = []
        for index, place in enumerate(priced):
            for sign in (1.0, -1.0):
                row = np.zeros(cost.size)
                row[size + index], row[place] = 1.0, -sign
                limits.append((row, -sign * self.own[place]))
        for (level, slope), need in rows:
            row = np.zeros(cost.size)
            row[:size] = slope[:size]
            limits.append((row, need - level))
        constraints = []
        if limits:
            matrix, needs = np.array([row for row, _ in limits]), np.array([need for _, need in limits])
            constraints = [{"type": "ineq", "fun": lambda x: matrix @ x - needs, "jac": lambda _: matrix}]

        def value(x):
            found, slope = self.loss(x[:size].reshape(self.shape), total)
            gradient = cost.copy()
            gradient[:size] += slope.ravel()
            return found + cost @ x, gradient

        rng, values = np.random.default_rng(0), []
        for number in range(STARTS):
            middle = (low + high).ravel() / 2 if number == 0 else rng.uniform(low.ravel(), high.ravel())
            start = np.concatenate([middle, np.abs(middle - self.own)[priced]])
            run = minimize(
                value,
                start,
                jac=True,
                method="SLSQP",
                bounds=bounds,
                constraints=constraints,
                options={"ftol": 1e-15, "maxiter": 500},
            )
            broken = max((float((needs - matrix @ run.x).max()) if limits else 0.0), 0.0)
            if broken < 1e-7:
                values.append(float(run.fun))
        return min(values)

    def loss(self, weight, total):
        """Value and gradient [h, d+1]."""
        scores = self.inputs @ weight.T + self.offset
        share = (self.w / total)[:, None]
        if self.spec.objective == "log_loss":
            value, slope = self._log_loss(scores, share)
        else:
            error = scores - self.snapshot.targets.reshape(self.snapshot.samples, -1)
            share = share / error.shape[1]
            if self.spec.objective == "huber":
                d = self.spec.delta
                losses = np.where(np.abs(error) <= d, error**2 / 2, d * (np.abs(error) - d / 2))
                value, slope = float((share * losses).sum()), share * np.clip(error, -d, d)
            else:
                value, slope = float((share * error**2).sum()), 2 * share * error
        gradient = slope.T @ self.inputs
        gradient[:, :-1] += 2 * self.spec.l2 * weight[:, :-1]
        return value + self.spec.l2 * float((weight[:, :-1] ** 2).sum()), gradient

    def _log_loss(self, scores, share):
        targets = self.snapshot.targets
        if self.snapshot.task == "classification":
            own = np.eye(scores.shape[1])[targets]
            log_sum = np.log(np.exp(scores).sum(axis=1, keepdims=True))
            return float((share * (log_sum - (own * scores).sum(axis=1, keepdims=True))).sum()), share * (
                np.exp(scores - log_sum) - own
            )
        side = 2.0 * targets.reshape(len(scores), -1) - 1
        share = share / scores.shape[1]
        return float((share * np.log1p(np.exp(-side * scores))).sum()), -share * side / (1 + np.exp(side * scores))
