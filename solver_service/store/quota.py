"""How many bytes of snapshots, results and records are kept, per owner and in all, and whether more fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.client import Pipeline

from shared.errors import ErrorCode
from solver_service.rules.owners import KEYLESS_OWNER, is_owner
from solver_service.store import keys
from solver_service.store.connection import is_text, translated
from solver_service.store.limits import LimitReachedError

RETRY_AFTER_S = 60
RECORD_BYTES = 4096
"""What a job takes besides its record: events, places in lists, the result's summary."""

# A sum that is no number begins anew, with 0.
SUMS = """
local function sum(sums, owner)
  local known = redis.call('HGET', sums, owner)
  if known and (#known > 17 or not string.match(known, '^%-?%d+$')) then
    redis.call('HDEL', sums, owner)
    known = false
  end
  return known or '0'
end
local function add(sums, owner, amount)
  sum(sums, owner)
  redis.call('HINCRBY', sums, owner, amount)
  sum(sums, '*')
  redis.call('HINCRBY', sums, '*', amount)
end
local function told(sizes, name)
  local size, owner = string.match(redis.call('HGET', sizes, name) or '', '^(%d+) (.*)$')
  if size and #size <= 15 then return size, owner end
end
"""

# Blobs end by Redis' own clock, without a word: what has ended since is taken off the sums first. The first write is
# one that Redis refuses when it is out of memory, so that a refused script has changed nothing.
_USED = f"""{SUMS}
local now = redis.call('TIME')[1]
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)) do
  local size, owner = told(KEYS[2], name)
  if size then add(KEYS[3], owner, -size) end
  redis.call('HDEL', KEYS[2], name)
  redis.call('ZREM', KEYS[1], name)
end
return {{sum(KEYS[3], ARGV[1]), sum(KEYS[3], '*')}}
"""

_DROP = f"""{SUMS}
local dropped = 0
for index = 4, #KEYS do
  local size, owner = told(KEYS[2], KEYS[index])
  dropped = dropped + redis.call('DEL', KEYS[index])
  redis.call('HDEL', KEYS[2], KEYS[index])
  redis.call('ZREM', KEYS[1], KEYS[index])
  if size then add(KEYS[3], owner, -size) end
end
return dropped
"""


@dataclass(frozen=True)
class Quota:
    """The bytes of one Redis. Uploads that arrive at the same instant may go over by themselves, later ones not."""

    redis: redis.Redis
    max_bytes: int
    max_owner_bytes: int

    @translated
    def used(self, owner: str) -> tuple[int, int]:
        """Bytes kept for an owner, and for all."""
        mine, everyone = self.redis.eval(_USED, 3, keys.BLOB_ENDS, keys.BLOB_SIZES, keys.BYTES, owner)
        return int(mine), int(everyone)

    @translated
    def kept(self) -> dict[str, int]:
        """Bytes kept for each owner who has any; a sum that is no number, and a name that is none, is passed over."""
        self.used("")
        found: dict[Any, Any] = self.redis.hgetall(keys.BYTES)
        told = [(bytes(name).decode(), bytes(amount)) for name, amount in found.items() if is_text(name)]
        return {
            name: int(size) for name, size in told if is_owner(name) and size.isdigit() and len(size) < 18 and int(size)
        }

    @translated
    def drop(self, names: Sequence[str]) -> int:
        """Delete what is counted, and take it off the sums; how many of these there were."""
        if not names:
            return 0
        all_names = keys.BLOB_ENDS, keys.BLOB_SIZES, keys.BYTES, *names
        return int(self.redis.eval(_DROP, len(all_names), *all_names))

    @translated
    def in_seconds(self, seconds: float) -> float:
        """So many seconds from now, on Redis' clock."""
        return float(self.redis.time()[0]) + seconds

    def require_room(self, owner: str, size: int) -> None:
        """Raise LimitReachedError unless so many bytes more may be kept.

        A key may keep as much as it leaves free, so that any number of keys together leave something for another one.
        """
        mine, everyone = self.used(owner)
        if everyone + size > self.max_bytes:
            raise _full("the pool keeps", everyone, size, self.max_bytes, "GDSOLVER_MAX_STORED_BYTES")
        if owner == KEYLESS_OWNER:
            return
        if mine + size > self.max_owner_bytes:
            raise _full("this key keeps", mine, size, self.max_owner_bytes, "GDSOLVER_MAX_STORED_BYTES_PER_KEY")
        share = (self.max_bytes - everyone + mine) // 2
        if mine + size > share:
            setting = "half of what other keys leave of GDSOLVER_MAX_STORED_BYTES"
            raise _full("this key keeps", mine, size, share, setting)


def count(pipe: Pipeline, name: str, *, owner: str, size: int, ends: float) -> None:
    """Queue the entry of a blob that is written in the same transaction."""
    pipe.zadd(keys.BLOB_ENDS, {name: ends})
    pipe.hset(keys.BLOB_SIZES, name, f"{size} {owner}")
    pipe.hincrby(keys.BYTES, owner, size)
    pipe.hincrby(keys.BYTES, "*", size)


def _full(who: str, kept: int, size: int, limit: int, setting: str) -> LimitReachedError:
    detail = (
        f"{who} {kept:,} bytes of snapshots, results and records, {size:,} more would be over {limit:,} ({setting}); "
        "they expire by themselves, or DELETE /v1/snapshots/ID"
    )
    return LimitReachedError(detail, code=ErrorCode.STORAGE_FULL, retry_after_s=RETRY_AFTER_S)
