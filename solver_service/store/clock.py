"""Redis' clock without a question for every look: hosts agree on it, and it costs a round trip every few seconds."""

import time
from dataclasses import dataclass, field

import redis

from solver_service.store.connection import translated

TRUST_S = 5.0
"""For so long this machine's own clock carries on from Redis' last answer."""


@dataclass
class Clock:
    """Unix time in seconds, as Redis has it."""

    redis: redis.Redis
    _known: tuple[float, float] = field(default=(0.0, float("-inf")))

    @translated
    def now(self) -> float:
        """Look at the clock; raises StoreUnavailableError when it has to be asked for and Redis is away."""
        theirs, asked = self._known
        here = time.monotonic()
        if here - asked > TRUST_S:
            seconds, microseconds = self.redis.time()
            theirs, asked = float(seconds + microseconds / 1e6), time.monotonic()
            self._known = theirs, asked
            here = asked
        return theirs + (here - asked)
