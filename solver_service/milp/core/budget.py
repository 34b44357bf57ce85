"""How long a phase of a solve may last: seconds by the clock, and rounds where a job asks to be reproducible."""

import math
from dataclasses import dataclass, replace

from solver_service.milp.core.control import Control

ENDLESS = 10**8
"""So many rounds nobody counts."""


@dataclass(frozen=True, eq=False)
class Budget:
    """A share of a solve's time, ending at `until` seconds on the control's clock, and at most `rounds` rounds.

    `patience` is for how many seconds a search goes on without an improvement, at least.
    """

    control: Control
    until: float
    rounds: int
    patience: float = math.inf

    @property
    def timed(self) -> bool:
        """Whether the clock may decide how much work is done, rather than rounds."""
        return self.rounds >= ENDLESS

    @property
    def over(self) -> bool:
        """True once the phase has to end: its time is up, or somebody asked the solve to stop."""
        return self.control.stopped or self.control.elapsed >= self.until

    def share(self, fraction: float) -> "Budget":
        """A part of what is left."""
        now = self.control.elapsed
        return replace(self, until=now + fraction * max(0.0, self.until - now))
