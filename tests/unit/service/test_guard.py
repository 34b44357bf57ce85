"""The guard around every request: bodies that come too slowly, and too many bytes on their way at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from solver_service.gateway.door import Door
from solver_service.gateway.guard import UPLOAD, Guard
from solver_service.gateway.shares import Shares
from solver_service.settings import MEBIBYTE, Settings

SCOPE = {"type": "http", "method": "POST", "path": "/v1/snapshots", "headers": [(b"host", b"127.0.0.1")]}


class Reader:
    """An application that reads the body, and remembers how that went."""

    def __init__(self, hold: asyncio.Event | None = None) -> None:
        self.received = 0
        self.refused: list[HTTPException] = []
        self._hold = hold

    async def __call__(self, _: Scope, receive: Receive, __: Send) -> None:
        try:
            while True:
                message = await receive()
                self.received += len(message["body"])
                if not message["more_body"]:
                    break
        except HTTPException as error:
            self.refused.append(error)
        if self._hold is not None:
            await self._hold.wait()


def body(*sizes: int, every_s: float = 0.0) -> Callable[[], Awaitable[Message]]:
    left = list(sizes)

    async def receive() -> Message:
        await asyncio.sleep(every_s)
        size = left.pop(0)
        return {"type": "http.request", "body": bytes(size), "more_body": bool(left)}

    return receive


async def send(_: Message) -> None:
    """Nobody looks at the answer."""


def guard(app: Reader, **settings: object) -> Guard:
    door = Door(may_be_keyless=True, keys_in_use=lambda: False)
    chosen = Settings(**settings)  # type: ignore[arg-type]
    return Guard(app, settings=chosen, door=door, on_their_way=Shares(chosen.max_body_bytes_in_flight))


def test_a_body_that_trickles_is_refused_in_time() -> None:
    """A client that sends a byte now and then gets a 408 when its grace is over."""
    app = Reader()
    began = time.monotonic()
    asyncio.run(guard(app, body_grace_s=0.3)(dict(SCOPE), body(*[1] * 100, every_s=0.05), send))
    (error,) = app.refused
    assert error.status_code == 408
    assert 0.3 <= time.monotonic() - began < 2


def test_a_steady_body_may_take_longer_than_the_grace() -> None:
    """Every byte that has arrived earns time for the next."""
    app = Reader()
    steady = body(*[MEBIBYTE // 4] * 6, every_s=0.1)
    asyncio.run(guard(app, body_grace_s=0.2, body_s_per_mebibyte=1.0)(dict(SCOPE), steady, send))
    assert app.refused == []
    assert app.received == 6 * MEBIBYTE // 4


def test_silence_ends_an_upload_however_much_came_before() -> None:
    """What was sent fast earns no time to be silent in: a body that stops is a 408 after the grace alone."""
    sizes = [MEBIBYTE] * 20

    async def receive() -> Message:
        if not sizes:
            await asyncio.sleep(30)
        return {"type": "http.request", "body": bytes(sizes.pop()), "more_body": True}

    app = Reader()
    began = time.monotonic()
    asyncio.run(guard(app, body_grace_s=0.3, body_s_per_mebibyte=10.0)(dict(SCOPE), receive, send))
    assert [error.status_code for error in app.refused] == [408]
    assert time.monotonic() - began < 10


class Owned(Reader):
    """An application that knows after the headers whose request it is."""

    def __init__(self, owner: str, hold: asyncio.Event) -> None:
        super().__init__(hold)
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[UPLOAD].belongs_to(self._owner)
        await super().__call__(scope, receive, send)


@pytest.mark.parametrize("greedy", [1, 2, 5])
def test_keys_that_hold_all_they_can_leave_room_for_another(greedy: int) -> None:
    """Silent connections of some keys never get another key a 429, and what is over is forgotten."""

    async def scenario() -> tuple[list[Owned], Owned, Guard]:
        hold = asyncio.Event()
        silent = [Owned(f"greedy-{number % greedy}", hold) for number in range(40)]
        last = Owned("modest", hold)
        shared = guard(silent[0], max_body_bytes_in_flight=10_000)
        calls = []
        for app in (*silent, last):
            shared._app = app
            size = 400 if app is last else 500
            calls.append(asyncio.ensure_future(shared(dict(SCOPE), body(size), send)))
            await asyncio.sleep(0.001)
        hold.set()
        await asyncio.gather(*calls)
        return silent, last, shared

    silent, modest, shared = asyncio.run(scenario())
    assert {error.status_code for app in silent for error in app.refused} == {429}
    assert modest.refused == []
    assert shared._on_their_way.held == 0


def test_one_key_alone_may_send_the_largest_body_there_is() -> None:
    """The defaults leave room for one whole snapshot of one key."""
    app = Reader()
    asyncio.run(guard(app)(dict(SCOPE), body(*[MEBIBYTE] * 256), send))
    assert app.refused == []
