"""Where movement has a price: steps up and steps down are variables of their own, so that most moves end at exactly 0.

Each of them is at least 0 and costs its price, which has no kink there (as in `final_layer/convex/program.py`). From
the snapshot's weights only those leave 0 whose slope outweighs the price: a first descent moves what is free, and
little else.
"""

import numpy as np

from solver_service.milp.core.problem import Array
from solver_service.milp.network.joint.evaluator import Evaluator


class Sides:
    """An evaluator's stand-in over its free variables, then the steps up, then the steps down of the priced ones.

    Steps begin at the snapshot's weights, or at what is nearest to these in the box.
    """

    def __init__(self, evaluate: Evaluator) -> None:
        assert evaluate.prices is not None, "without a price there are no sides"
        self._evaluate, self._priced = evaluate, evaluate.prices > 0
        self._price = evaluate.prices[self._priced]
        self._base = np.clip(evaluate.scaling.own_variables, evaluate.lower, evaluate.upper)
        room, depth = evaluate.upper - self._base, self._base - evaluate.lower
        nothing = np.zeros(2 * self._price.size)
        self.lower: Array = np.concatenate([evaluate.lower[~self._priced], nothing])
        self.upper: Array = np.concatenate([evaluate.upper[~self._priced], room[self._priced], depth[self._priced]])

    def apart(self, variables: Array) -> Array:
        """The free variables and the steps [size + priced] of variables [size]."""
        way = (variables - self._base)[self._priced]
        return np.concatenate([variables[~self._priced], np.maximum(way, 0.0), np.maximum(-way, 0.0)])

    def together(self, sides: Array) -> Array:
        """The variables [size] of these."""
        free = self._base.size - self._price.size
        found = np.empty_like(self._base)
        found[~self._priced] = sides[:free]
        up, down = np.split(sides[free:], 2)
        found[self._priced] = self._base[self._priced] + up - down
        return np.clip(found, self._evaluate.lower, self._evaluate.upper)

    def __call__(self, sides: Array) -> tuple[float, Array]:
        """Value and gradient, both steps of a variable paid for."""
        value, slope = self._evaluate.unpaid(self.together(sides))
        up, down = np.split(sides[self._base.size - self._price.size :], 2)
        paid = float(self._price @ (up + down)) + self._evaluate.outside
        priced = slope[self._priced]
        return value + paid, np.concatenate([slope[~self._priced], priced + self._price, self._price - priced])
