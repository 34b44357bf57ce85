"""Compare-and-set in one round trip: a value as it was read, and everything to write if it still is so."""

import json
from dataclasses import dataclass

import redis
from redis.client import Pipeline

# The first command must be a write that Redis refuses when it is out of memory: a refused script has changed nothing.
_COMMIT = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if KEYS[2] then redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4]) end
for _, command in ipairs(cjson.decode(ARGV[2])) do redis.call(unpack(command)) end
return 1
"""


@dataclass(frozen=True)
class Blob:
    """Bytes to be written, with their life in seconds."""

    name: str
    data: bytes
    keep_s: int


@dataclass(frozen=True)
class Commit:
    """Writes that Redis does together, or not at all; WATCH and MULTI would take three round trips for it."""

    redis: redis.Redis

    def changes(self) -> Pipeline:
        """Make a list to put commands of text and numbers into; it sends nothing by itself."""
        return self.redis.pipeline()

    def __call__(self, changes: Pipeline, name: str, known: bytes | None, *, blob: Blob | None = None) -> bool:
        """Write all if the value under `name` is still the known one (None: there is none); whether it was."""
        commands = json.dumps([command for command, _ in changes.command_stack], default=bytes.decode)
        names, words = [name], [known or b"", commands.encode()]
        if blob is not None:
            names, words = [name, blob.name], [*words, blob.data, str(blob.keep_s).encode()]
        return bool(self.redis.register_script(_COMMIT)(keys=names, args=words))
