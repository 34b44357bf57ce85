"""Compare-and-set in one round trip: a value as it was read, and everything to write if it still is so."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import redis
import structlog
from redis.client import Pipeline
from redis.commands.core import Script

from solver_service.store.pieces import PIECE_BYTES, hand_over

log = structlog.get_logger()

# Nothing that is written before may fail: so the first command is one that Redis refuses when it is out of memory, and
# after it no command ends the script. A counter that cannot be added to (it holds no number, or would overflow) begins
# anew. A value of another type than text, which MGET does not see, is as good as none. What was accepted earlier has to
# go on in a full Redis, too: a first write that needs no memory lets all pass. (A large blob was accepted, or refused,
# when it was handed over.)
_COMMIT = """
if (redis.call('MGET', KEYS[1])[1] or '') ~= ARGV[1] then return {'stale'} end
if KEYS[2] ~= '' and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then return {'full'} end
if ARGV[6] == 'owed' then redis.call('DEL', '') end
if KEYS[4] ~= '' then
  redis.call('RENAME', KEYS[4], KEYS[3])
  redis.call('EXPIRE', KEYS[3], ARGV[5])
elseif KEYS[3] ~= '' then
  redis.call('SET', KEYS[3], ARGV[4], 'EX', ARGV[5])
end
local done, call = {'done'}, redis.call
for _, command in ipairs(cjson.decode(ARGV[2])) do
  local reply = call(unpack(command))
  if type(reply) == 'table' and reply.err and (command[1] == 'HINCRBYFLOAT' or command[1] == 'HINCRBY') then
    reply = redis.pcall('HSET', command[2], command[3], command[4])
  end
  if type(reply) == 'table' and reply.err then table.insert(done, command[2] .. ': ' .. reply.err) end
  call = redis.pcall
end
return done
"""


@dataclass(frozen=True)
class Blob:
    """Bytes to be written, with their life in seconds."""

    name: str
    data: bytes
    keep_s: int


@dataclass(frozen=True)
class Ahead:
    """A script to be run before a commit, in the same round trip, whatever becomes of it."""

    script: str
    keys: tuple[str, ...]
    arguments: tuple[str | int | bytes, ...]


@dataclass(frozen=True)
class Room:
    """A sorted set that must have fewer members than `most`."""

    name: str
    most: int


class NoRoomError(RuntimeError):
    """The set has as many members as it may."""


@dataclass(frozen=True)
class Commit:
    """Writes that Redis does together, or not at all; WATCH and MULTI would take three round trips for it."""

    redis: redis.Redis

    @cached_property
    def _script(self) -> Script:
        return self.redis.register_script(_COMMIT)

    def changes(self) -> Pipeline:
        """Make a list to put commands of text and finite numbers into; it sends nothing by itself."""
        return self.redis.pipeline()

    def __call__(
        self,
        changes: Pipeline,
        name: str,
        known: bytes | None,
        *,
        blob: Blob | None = None,
        room: Room | None = None,
        owed: bool = False,
        ahead: Ahead | None = None,
    ) -> bool:
        """Write all if the value under `name` is still the known one (None: there is none); whether it was.

        What is `owed` is written in a Redis that has reached its `maxmemory`, too. Raises NoRoomError, having written
        nothing, if there has to be `room` and there is none; ValueError for a number that is not finite. What is
        `ahead` runs first, and once, also where nothing is written.
        """
        commands = json.dumps([command for command, _ in changes.command_stack], default=bytes.decode, allow_nan=False)
        room = room or Room("", 0)
        blob = blob or Blob("", b"", 0)
        arrived = hand_over(self.redis, blob.data) if len(blob.data) > PIECE_BYTES else ""
        names = [name, room.name, blob.name, arrived]
        arguments: list[str | int | bytes] = [
            known or b"",
            commands,
            room.most,
            b"" if arrived else blob.data,
            blob.keep_s,
            "owed" if owed else "",
        ]
        done, *failed = self._script(names, arguments) if ahead is None else self._behind(ahead, names, arguments)
        if arrived and done != b"done":
            self.redis.delete(arrived)
        if done == b"full":
            raise NoRoomError(f"{room.most} members in {room.name}")
        for reason in failed:
            log.error("an index or a counter could not be written", reason=reason.decode(errors="replace"))
        return bool(done == b"done")

    def _behind(self, ahead: Ahead, names: list[str], arguments: list[str | int | bytes]) -> Any:
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.eval(ahead.script, len(ahead.keys), *ahead.keys, *ahead.arguments)
            pipe.evalsha(self._script.sha, len(names), *names, *arguments)
            first, found = pipe.execute(raise_on_error=False)
        if isinstance(first, Exception):
            log.info("left out ahead of a commit", reason=str(first))
        if isinstance(found, redis.exceptions.NoScriptError):
            return self._script(names, arguments)
        if isinstance(found, Exception):
            raise found
        return found
