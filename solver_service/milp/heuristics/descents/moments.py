"""Adam's running means (Kingma and Ba 2015), for descents that take the step themselves."""

from dataclasses import dataclass

import numpy as np

from solver_service.milp.core.problem import Array

FADES, SQUARES_FADE = 0.9, 0.99


@dataclass(eq=False)
class Moments:
    """The means of gradients and of their squares, in the variables' shape, after so many steps."""

    mean: Array
    square: Array
    done: int = 0

    def take(self, gradient: Array) -> tuple[Array, Array]:
        """Take a gradient in; the direction's numerator and denominator, both freed from the start at 0."""
        self.done += 1
        self.mean = FADES * self.mean + (1 - FADES) * gradient
        self.square = SQUARES_FADE * self.square + (1 - SQUARES_FADE) * gradient**2
        mean, square = self.mean / (1 - FADES**self.done), self.square / (1 - SQUARES_FADE**self.done)
        return mean, np.sqrt(square) + 1e-12
