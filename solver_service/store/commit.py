"""Compare-and-set in one round trip: a value as it was read, and everything to write if it still is so."""

import json
from dataclasses import dataclass
from functools import cached_property

import redis
from redis.client import Pipeline
from redis.commands.core import Script

# The first command must be a write that Redis refuses when it is out of memory: a refused script has changed nothing.
_COMMIT = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 'stale' end
if KEYS[2] ~= '' and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then return 'full' end
if KEYS[3] ~= '' then redis.call('SET', KEYS[3], ARGV[4], 'EX', ARGV[5]) end
for _, command in ipairs(cjson.decode(ARGV[2])) do redis.call(unpack(command)) end
return 'done'
"""


@dataclass(frozen=True)
class Blob:
    """Bytes to be written, with their life in seconds."""

    name: str
    data: bytes
    keep_s: int


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
        """Make a list to put commands of text and numbers into; it sends nothing by itself."""
        return self.redis.pipeline()

    def __call__(
        self, changes: Pipeline, name: str, known: bytes | None, *, blob: Blob | None = None, room: Room | None = None
    ) -> bool:
        """Write all if the value under `name` is still the known one (None: there is none); whether it was.

        Raises NoRoomError, having written nothing, if there has to be `room` and there is none.
        """
        commands = json.dumps([command for command, _ in changes.command_stack], default=bytes.decode)
        room = room or Room("", 0)
        blob = blob or Blob("", b"", 0)
        done = self._script(
            keys=[name, room.name, blob.name], args=[known or b"", commands, room.most, blob.data, blob.keep_s]
        )
        if done == b"full":
            raise NoRoomError(f"{room.most} members in {room.name}")
        return bool(done == b"done")
