"""Leases that only one process may hold at a time, such as the reaper's."""

from dataclasses import dataclass

import redis

from solver_service.store import keys
from solver_service.store.connection import translated


@dataclass(frozen=True)
class ReaperLease:
    """The right to reap; it passes on by itself when its holder falls silent."""

    redis: redis.Redis
    token: str
    life_s: float = 5.0

    @translated
    def hold(self) -> bool:
        """Take or renew the lease; False while another gateway holds it."""
        life_ms = int(self.life_s * 1000)
        if self.redis.set(keys.REAPER, self.token, nx=True, px=life_ms):
            return True
        if self.redis.get(keys.REAPER) != self.token.encode():
            return False
        return bool(self.redis.pexpire(keys.REAPER, life_ms))
