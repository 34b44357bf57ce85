"""Jobs' logs: text that attempts append to while they run, bounded, counted, and told as events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from shared.contracts import JobEvent
from solver_service.rules.history import Written
from solver_service.rules.jobs import Job
from solver_service.store import keys
from solver_service.store.commit import Ahead
from solver_service.store.connection import translated
from solver_service.store.events import MOST_EVENTS
from solver_service.store.quota import SUMS

MOST_BYTES = 256 * 1024
"""A log that grows longer loses its middle."""
HEAD_BYTES, TAIL_BYTES = 64 * 1024, 128 * 1024
"""What is then left of its begin and its end, so that it is not cut again at once."""
LEFT_OUT = b"[... lines are left out here: a log keeps its begin and its end ...]\n"

# The first write is one that Redis refuses when it is out of memory, so that a refused script has changed nothing.
# Events name places in the text as it was written, from its first byte on: `gds:log-places` says where they are now.
_APPEND = f"""{SUMS}
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
local size = redis.call('APPEND', KEYS[2], ARGV[3])
local total = redis.call('HINCRBY', KEYS[3], 'total', #ARGV[3])
if size > tonumber(ARGV[6]) then
  local text = redis.call('GET', KEYS[2])
  local cut = redis.call('HGET', KEYS[3], 'head')
  local head = string.sub(text, 1, tonumber(cut or ARGV[7]))
  if not cut then head = string.match(head, '^.*\\n') or head end
  local tail = string.sub(text, -tonumber(ARGV[8]))
  tail = string.match(tail, '\\n(.*)$') or tail
  redis.call('SET', KEYS[2], head .. ARGV[9] .. tail)
  redis.call('HSET', KEYS[3], 'head', #head, 'left', total - #tail)
  size = #head + #ARGV[9] + #tail
end
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('EXPIRE', KEYS[3], ARGV[5])
local counted = told(KEYS[5], KEYS[2]) or 0
redis.call('ZADD', KEYS[6], redis.call('TIME')[1] + ARGV[5], KEYS[2])
redis.call('HSET', KEYS[5], KEYS[2], size .. ' ' .. ARGV[4])
add(KEYS[7], ARGV[4], size - counted)
local event = cjson.encode({{attempt = tonumber(ARGV[2]), begin = total - #ARGV[3], ['end'] = total}})
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[10], '*', 'kind', 'log', 'data', event)
redis.call('EXPIRE', KEYS[4], ARGV[5])
redis.call('PUBLISH', ARGV[11], ARGV[1])
return 1
"""


@dataclass(frozen=True)
class LogStore:
    """All jobs' logs of one Redis. A log lives as long as its job's record does, and goes with it."""

    redis: redis.Redis
    keep_s: int

    @translated
    def append(self, job: Job, text: str) -> bool:
        """Add text to the log of a job that its attempt still holds; whether it does."""
        call = self.ahead(job, text)
        return bool(self.redis.eval(call.script, len(call.keys), *call.keys, *call.arguments))

    def ahead(self, job: Job, text: str) -> Ahead:
        """The same, to be done ahead of a commit that ends the attempt."""
        data = text.encode(errors="replace")
        names = (
            *(keys.HOLDING, keys.log(job.id), keys.log_places(job.id), keys.events(job.id)),
            *(keys.BLOB_SIZES, keys.BLOB_ENDS, keys.BYTES),
        )
        bounds = MOST_BYTES, HEAD_BYTES, TAIL_BYTES, LEFT_OUT, MOST_EVENTS, keys.CHANGED
        told = job.id, job.attempt, data, job.owner, self.keep_s, *bounds
        return Ahead(_APPEND, names, told)

    @translated
    def told(self, job_id: str, events: Sequence[JobEvent]) -> list[JobEvent]:
        """The same events, those that tell of text with it; without any that was left out since."""
        written = [Written.of(event) for event in events]
        if not any(written):
            return list(events)
        places: dict[Any, Any] = self.redis.hgetall(keys.log_places(job_id))
        spans = [(0, 0) if one is None else _where(one, places) for one in written]
        texts = self._texts(job_id, spans)
        filled = zip(events, written, texts, strict=True)
        return [event if one is None else one.event(event.id, text) for event, one, text in filled]

    def _texts(self, job_id: str, spans: Iterable[tuple[int, int]]) -> list[str]:
        """The text in each span [begin, end) of a log, as Redis counts; nothing for empty ones."""
        with self.redis.pipeline(transaction=False) as pipe:
            for begin, end in spans:
                pipe.getrange(keys.log(job_id), begin, end - 1) if begin != end else pipe.echo("")
            return [bytes(found).decode(errors="replace") for found in pipe.execute()]


def _where(written: Written, places: dict[Any, Any]) -> tuple[int, int]:
    """Where text is now: from the begin in what was kept of it, from the end behind what was left out."""
    total, head, left = (int(places.get(name, 0)) for name in (b"total", b"head", b"left"))
    if left == 0 or written.end <= head:
        return written.begin, written.end
    if written.begin < left:
        return 0, 0
    return written.begin - total, written.end - total
