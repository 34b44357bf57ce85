"""What one key may ask of the pool: submissions a minute, unfinished jobs, bytes kept; all in one round trip."""

import math
from dataclasses import dataclass
from typing import Protocol

import redis

from shared.errors import ErrorCode
from solver_service.rules.owners import KEYLESS_OWNER
from solver_service.store import keys
from solver_service.store.connection import translated

# A token bucket that holds a minute's worth. It runs in Redis, on its clock: all gateways share one bucket.
_ADMIT = """
local unfinished = redis.call('SCARD', KEYS[2])
if unfinished + ARGV[6] > tonumber(ARGV[2]) then return {'unfinished', tostring(unfinished)} end
local mine = tonumber(redis.call('HGET', KEYS[3], ARGV[3]) or 0) or 0
local free = tonumber(ARGV[5]) - (tonumber(redis.call('HGET', KEYS[3], '*') or 0) or 0)
if mine > math.min(tonumber(ARGV[4]), free) then return {'bytes', ''} end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local most, kept = tonumber(ARGV[1]), redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = most
local left, at = tonumber(kept[1] or ''), tonumber(kept[2] or '')
if left and at then tokens = math.min(most, left + (now - at) * most / 60) end
local wanted = tonumber(ARGV[7])
if tokens < wanted then return {'rate', tostring((wanted - tokens) * 60 / most)} end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens - wanted), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 120)
return {'', ''}
"""


UNBOUNDED = 2**62


class LimitReachedError(RuntimeError):
    """A limit that time or finished work lifts again; it says which one, and when to come back."""

    def __init__(self, detail: str, *, code: ErrorCode, retry_after_s: int) -> None:
        super().__init__(detail)
        self.code = code
        self.retry_after_s = retry_after_s


class Bytes(Protocol):
    """What is kept of each key's things."""

    @property
    def max_bytes(self) -> int:
        """What all may keep."""

    @property
    def max_owner_bytes(self) -> int:
        """What one key may keep."""

    def require_room(self, owner: str, size: int) -> None:
        """Raise LimitReachedError unless so many bytes more may be kept."""


@dataclass(frozen=True)
class _Asked:
    """How many jobs are to be made, and for how many submissions that counts now."""

    jobs: int
    submissions: int

    @property
    def more(self) -> str:
        return f" and sends {self.jobs} more" if self.jobs > 1 else ""


@dataclass(frozen=True)
class Limits:
    """The limits of every key; the keyless owner of a loopback pool has the pool's own limits alone."""

    redis: redis.Redis
    per_minute: int
    max_unfinished: int
    quota: Bytes

    @translated
    def admit(self, owner: str, *, token: str | None = None) -> None:
        """Count one submission; LimitReachedError when the owner has to wait.

        One that repeats another by its idempotency key makes nothing new, and is let in all the same.
        """
        self._admit_unless_known(owner, token, _Asked(jobs=1, submissions=1))

    @translated
    def admit_rest(self, owner: str, jobs: int, *, token: str | None = None) -> None:
        """Count the rest of a submission that turned out to make so many jobs, all of them or none.

        A minute's worth is the most that is counted of it; LimitReachedError otherwise as for one.
        """
        self._admit_unless_known(owner, token, _Asked(jobs, max(0, min(jobs, self.per_minute) - 1)))

    def _admit_unless_known(self, owner: str, token: str | None, asked: "_Asked") -> None:
        if owner == KEYLESS_OWNER:
            return
        try:
            self._admit(owner, asked)
        except (LimitReachedError, redis.ResponseError):  # or Redis has no room to count it
            if not token or not self.redis.exists(keys.idempotency(owner, token)):
                raise

    def _admit(self, owner: str, asked: "_Asked") -> None:
        limit, found = self._admitted(owner, asked, self.quota.max_owner_bytes, self.quota.max_bytes)
        if limit == b"bytes":  # so said the sums; what has expired is taken off them now, and they are looked at again
            self.quota.require_room(owner, 1)
            limit, found = self._admitted(owner, asked, UNBOUNDED, UNBOUNDED)
        if limit == b"rate":
            raise LimitReachedError(
                f"this key may submit {self.per_minute} jobs a minute (GDSOLVER_MAX_SUBMISSIONS_PER_MINUTE)",
                code=ErrorCode.RATE_LIMITED,
                # Whoever comes again is counted at the door first.
                retry_after_s=max(1, math.ceil(float(found) + (60 / self.per_minute if asked.jobs > 1 else 0))),
            )
        if limit == b"unfinished":
            raise LimitReachedError(
                f"this key has {int(found)} unfinished jobs{asked.more}, and may have {self.max_unfinished} "
                "(GDSOLVER_MAX_UNFINISHED_PER_KEY); wait for some or cancel them",
                code=ErrorCode.TOO_MANY_JOBS,
                retry_after_s=5,
            )

    def _admitted(self, owner: str, asked: "_Asked", most: int, in_all: int) -> tuple[bytes, bytes]:
        names = keys.rate(owner), keys.unfinished(owner), keys.BYTES
        limits = self.per_minute, self.max_unfinished, owner, most, in_all, asked.jobs, asked.submissions
        limit, found = self.redis.eval(_ADMIT, 3, *names, *limits)
        return limit, found
