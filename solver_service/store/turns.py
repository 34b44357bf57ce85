"""Whose turn it is: fair between keys, by priority within a key, and first of all those who had theirs already.

Stride scheduling (Waldspurger and Weihl, 1995). Each key with jobs that wait has a pass; the least one has the next
turn, which moves its pass on by 1 / weight. A key that comes (back) begins where the others are, so that its first job
waits for at most one job of each other key and worker, and gathers no claims while it has nothing to do. A message is
only a wake-up: whichever worker takes one takes the job whose turn it is.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import redis
from redis.client import Pipeline
from redis.commands.core import Script

from solver_service.rules.jobs import Job
from solver_service.store import keys
from solver_service.store.connection import is_text, payload, translated

RANKS = {"high": 0, "normal": 1, "low": 2}
RANK_MS = 1e13
"""More than any time in milliseconds, so that a priority outweighs every wait."""
ID_LENGTH = 32
LEAST_WEIGHT, MOST_WEIGHT = 1e-3, 1e3
"""A stored weight beyond counts as the nearest one of these: a pass that grew by 1e17 would not grow by 1 any more."""
MOST_PASS = 1e12
"""More than any pool gets to; up to here a pass grows by as little as 1 / MOST_WEIGHT."""

# A key without jobs is forgotten once the others have caught up with it: until then, coming back buys it nothing.
# The first write is one that Redis does without memory, and lets all others pass: jobs leave a full Redis, too.
# A name that holds another type is as good as none, and so is a pass that no pool has: it begins anew.
_PICK = """
redis.call('DEL', '')
for at, kind in pairs({[1] = 'zset', [2] = 'zset', [4] = 'hash'}) do
  local found = redis.call('TYPE', KEYS[at]).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', KEYS[at]) end
end
local least, most, high = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local function sane(told)
  local pass = tonumber(told or '') or 0
  return pass >= 0 and pass < high and pass or 0
end
local function taken(id)
  return {id, redis.call('MGET', ARGV[3] .. id)[1]}
end
local function charge(owner, pass)
  local weight = tonumber(redis.call('HGET', KEYS[4], owner) or '1') or 1
  if not (weight > 0) then weight = 1 end
  weight = math.max(least, math.min(most, weight))
  redis.call('ZADD', KEYS[2], string.format('%.17g', pass + 1 / weight), owner)
end
local now = sane(redis.call('MGET', KEYS[3])[1])
local back = redis.call('ZPOPMIN', KEYS[1])
if back[1] then
  local owner = string.sub(back[1], tonumber(ARGV[2]) + 1)
  charge(owner, math.max(now, sane(redis.call('ZSCORE', KEYS[2], owner))))
  return taken(string.sub(back[1], 1, tonumber(ARGV[2])))
end
local known = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
local mended = false
for at = 1, #known, 2 do
  if sane(known[at + 1]) ~= tonumber(known[at + 1]) then mended = redis.call('ZADD', KEYS[2], now, known[at]) end
end
if mended then known = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES') end
for at = 1, #known, 2 do
  local owner, pass = known[at], tonumber(known[at + 1])
  local job = redis.pcall('ZPOPMIN', ARGV[1] .. owner)
  if job[1] then
    now = math.max(now, pass)
    redis.call('SET', KEYS[3], string.format('%.17g', now))
    charge(owner, now)
    return taken(job[1])
  end
  if pass <= now then redis.call('ZREM', KEYS[2], owner) end
end
return false
"""


@dataclass(frozen=True)
class Turn:
    """A job whose turn it is, and its record as it is stored; None where there is none any more."""

    job_id: str
    record: bytes | None


@dataclass(frozen=True)
class Turns:
    """The order in which the jobs of one Redis have their turn."""

    redis: redis.Redis

    @cached_property
    def _script(self) -> Script:
        return self.redis.register_script(_PICK)

    @translated
    def take(self) -> Turn | None:
        """Take the job whose turn it is; None when none waits.

        Whoever takes one claims it next. If that never happens, the reaper lets the job wait again.
        """
        names = [keys.HANDED_ON, keys.PASSES, keys.PASS, keys.WEIGHTS]
        bounds = (LEAST_WEIGHT, MOST_WEIGHT, MOST_PASS)
        found = self._script(keys=names, args=[keys.turns(""), ID_LENGTH, keys.job(""), *bounds])
        return None if found is None else Turn(bytes(found[0]).decode(errors="replace"), payload(found[1]))

    def pick(self) -> str | None:
        """Take the job whose turn it is, and return its id alone."""
        turn = self.take()
        return None if turn is None else turn.job_id

    @translated
    def weigh(self, owner: str, weight: float) -> None:
        """Give an owner's jobs so many turns for each one of another owner's."""
        if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            raise ValueError(f"a weight is from {LEAST_WEIGHT:g} to {MOST_WEIGHT:,.0f}")
        self.redis.hset(keys.WEIGHTS, owner, str(weight))

    @translated
    def weights(self) -> dict[str, float]:
        """The weights that owners were given; all others have 1, and so has one whose weight is none."""
        found: Any = self.redis.hgetall(keys.WEIGHTS)
        return {owner.decode(): _weight(told) for owner, told in found.items() if is_text(owner)}


def _weight(told: bytes) -> float:
    """A weight as `_PICK` reads it."""
    try:
        weight = float(told)
    except ValueError:
        return 1.0
    return max(LEAST_WEIGHT, min(MOST_WEIGHT, weight)) if weight > 0 else 1.0


def wait(pipe: Pipeline, job: Job) -> None:
    """Queue a job's place: before all that have not begun yet, if it has had its turn already."""
    if job.attempt:
        pipe.zadd(keys.HANDED_ON, {f"{job.id}{job.owner}": job.queued_at})
        return
    pipe.zadd(keys.turns(job.owner), {job.id: RANKS[job.spec.priority] * RANK_MS + round(1000 * job.queued_at)})
    pipe.zadd(keys.PASSES, {job.owner: 0}, nx=True)


def leave(pipe: Pipeline, owner: str, job_id: str) -> None:
    """Queue the end of a job's waiting."""
    pipe.zrem(keys.turns(owner), job_id)
    pipe.zrem(keys.HANDED_ON, f"{job_id}{owner}")
