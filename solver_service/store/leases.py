"""Leases that only one process may hold at a time, such as the reaper's."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from solver_service.store import keys
from solver_service.store.connection import payload, translated

# Replaces the holder's sign by ours if we are the holder, or know that it is silent; in a full Redis, too.
_HOLD = """
local found = redis.call('MGET', KEYS[1])[1] or ''
local mine = string.sub(found, 1, string.len(ARGV[1])) == ARGV[1]
if found ~= '' and not mine and found ~= ARGV[2] then return found end
redis.call('DEL', '')
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return false
"""


@dataclass
class ReaperLease:
    """The right to reap; it passes on by itself when its holder falls silent.

    Redis ends it by its own clock. Where that was set back, others have watched the holder's sign themselves, and take
    over when it has not changed for as long.
    """

    redis: redis.Redis
    token: str
    life_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    _signs: int = 0
    _seen: tuple[bytes, float] = field(default=(b"", 0.0))

    @translated
    def hold(self) -> bool:
        """Take or renew the lease; False while another gateway holds it."""
        self._signs += 1
        theirs, since = self._seen
        silent = theirs if self.clock() - since > self.life_s else b""
        sign, life_ms = f"{self.token}:{self._signs}", int(self.life_s * 1000)
        found = payload(self.redis.eval(_HOLD, 1, keys.REAPER, self.token, silent, sign, life_ms))
        if found is not None and found != theirs:
            self._seen = found, self.clock()
        if found is None:
            self._seen = (b"", 0.0)
        return found is None
