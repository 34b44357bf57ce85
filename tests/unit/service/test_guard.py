"""The guard around every request: bodies that come too slowly, and too many bytes on their way at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from solver_service.gateway.door import Door
from solver_service.gateway.guard import Guard
from solver_service.settings import MEBIBYTE, Settings

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"127.0.0.1")]}


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
    return Guard(app, settings=Settings(**settings), door=door)  # type: ignore[arg-type]


def test_a_body_that_trickles_is_refused_in_time() -> None:
    """A client that sends a byte now and then gets a 408 when its grace is over."""
    app = Reader()
    began = time.monotonic()
    asyncio.run(guard(app, body_grace_s=0.3)(SCOPE, body(*[1] * 100, every_s=0.05), send))
    (error,) = app.refused
    assert error.status_code == 408
    assert 0.3 <= time.monotonic() - began < 2


def test_a_steady_body_may_take_longer_than_the_grace() -> None:
    """Every byte that has arrived earns time for the next."""
    app = Reader()
    steady = body(*[MEBIBYTE // 4] * 6, every_s=0.1)
    asyncio.run(guard(app, body_grace_s=0.2, body_s_per_mebibyte=1.0)(SCOPE, steady, send))
    assert app.refused == []
    assert app.received == 6 * MEBIBYTE // 4


@pytest.mark.parametrize(("limit", "refused"), [(250, 1), (400, 0)])
def test_bytes_on_their_way_are_bounded_in_all(limit: int, refused: int) -> None:
    """Uploads together may hold so many bytes; one too many gets a 429, and what is over is forgotten."""

    async def three() -> tuple[list[Reader], Guard]:
        hold = asyncio.Event()
        apps = [Reader(hold) for _ in range(3)]
        shared = guard(apps[0], max_body_bytes_in_flight=limit)
        calls = []
        for app in apps:
            shared._app = app
            calls.append(asyncio.ensure_future(shared(SCOPE, body(100), send)))
            await asyncio.sleep(0.01)
        hold.set()
        await asyncio.gather(*calls)
        return apps, shared

    apps, shared = asyncio.run(three())
    errors = [error for app in apps for error in app.refused]
    assert [error.status_code for error in errors] == [429] * refused
    assert shared._in_flight == 0
