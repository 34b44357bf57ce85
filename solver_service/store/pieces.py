"""Large values go to Redis and come from it piece by piece: it does one command at a time, and all others wait."""

import secrets

import redis

from solver_service.store import keys

PIECE_BYTES = 256 * 1024
"""So much is in one command, or in its answer."""
ARRIVING_S = 600
"""So long may it take to hand a value over to Redis."""


def hand_over(client: redis.Redis, data: bytes) -> str:
    """Put bytes under a name of their own, which is to be renamed; what is not, expires.

    They go piece by piece: all at once they would keep Redis from everybody else, and take it longer to log.
    """
    name = keys.arriving(secrets.token_hex(8))
    pieces = memoryview(data)
    with client.pipeline(transaction=False) as pipe:
        pipe.set(name, pieces[:PIECE_BYTES], ex=ARRIVING_S)
        for begin in range(PIECE_BYTES, len(data), PIECE_BYTES):
            pipe.append(name, pieces[begin : begin + PIECE_BYTES])
        try:
            pipe.execute()
        except redis.ResponseError:  # out of memory: make room at once
            client.delete(name)
            raise
    return name


def whole(client: redis.Redis, name: str) -> bytes | None:
    """Read the bytes under a name, all of them as they were at one moment; None where there are none."""
    first = bytes(client.getrange(name, 0, PIECE_BYTES - 1))  # type: ignore[arg-type]
    if len(first) < PIECE_BYTES:  # most are one piece, and a piece is of one moment
        return first or None
    with client.pipeline() as pipe:
        while True:
            try:
                pipe.watch(name)  # type: ignore[no-untyped-call]
                found = _pieces(pipe, name)
                pipe.multi()
                pipe.exists(name)
                pipe.execute()
            except redis.WatchError:  # another value has come, or this one has expired
                continue
            return b"".join(found) or None


def _pieces(pipe: redis.client.Pipeline, name: str) -> list[bytes]:
    """A value's pieces one by one: a watching pipeline does each command at once."""
    found: list[bytes] = []
    while not found or len(found[-1]) == PIECE_BYTES:
        begin = len(found) * PIECE_BYTES
        found.append(bytes(pipe.getrange(name, begin, begin + PIECE_BYTES - 1)))  # type: ignore[arg-type]
    return found
