"""Redis' clock without a question for every look: hosts agree on it, and it costs a round trip every few seconds.

It never steps in a living process. It runs on by this machine's monotonic clock, and is led towards Redis' one by at
most 2 % of what has passed: enough for any drift, and too slow for a step to expire a job that should wait. A process
that starts after a step takes the time as it then is.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from solver_service.store.connection import translated

TRUST_S = 5.0
"""For so long this machine's own clock carries on from Redis' last answer."""
MOST_SLEW = 0.02


@dataclass
class Clock:
    """Unix time in seconds, as Redis has it."""

    redis: redis.Redis
    monotonic: Callable[[], float] = time.monotonic
    _asked: float | None = None
    _ahead: float = field(default=0.0)

    @translated
    def now(self) -> float:
        """Look at the clock; raises StoreUnavailableError when it has to be asked for and Redis is away."""
        here = self.monotonic()
        if self._asked is None or here - self._asked > TRUST_S:
            seconds, microseconds = self.redis.time()
            found, here = seconds + microseconds / 1e6, self.monotonic()
            ahead = found - here
            if self._asked is not None:
                most = MOST_SLEW * (here - self._asked)
                ahead = self._ahead + max(-most, min(most, ahead - self._ahead))
            self._asked, self._ahead = here, ahead
        return here + self._ahead
