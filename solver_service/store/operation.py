"""What an operator has told the pool: to run, to pause (nothing begins) or to drain (nothing is accepted)."""

import time
from dataclasses import dataclass, field
from enum import StrEnum

import redis

from solver_service.store import keys
from solver_service.store.connection import payload, translated

KNOWN_FOR_S = 1.0


class Mode(StrEnum):
    """How the pool is run."""

    RUNNING = "running"
    PAUSED = "paused"
    DRAINING = "draining"


@dataclass
class Operation:
    """The mode of one Redis' pool; each process looks at most once a second."""

    redis: redis.Redis
    _known: tuple[Mode, float] = field(default=(Mode.RUNNING, float("-inf")))

    @translated
    def set(self, mode: Mode) -> None:
        """Tell all gateways and workers."""
        if mode is Mode.RUNNING:
            self.redis.delete(keys.MODE)
        else:
            self.redis.set(keys.MODE, mode.value)
        self._known = mode, time.monotonic()

    @translated
    def mode(self) -> Mode:
        """How it is, or was a second ago; a word that this release does not know counts as running."""
        mode, asked = self._known
        if time.monotonic() - asked > KNOWN_FOR_S:
            found = (payload(self.redis.get(keys.MODE)) or b"").decode(errors="replace")
            mode = Mode(found) if found in set(Mode) else Mode.RUNNING
            self._known = mode, time.monotonic()
        return mode
