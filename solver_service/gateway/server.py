"""uvicorn, with what many and slow clients need: many file descriptors, turns, and an end to waiting for headers.

uvicorn's own `limit_concurrency` is left alone: it counts slow connections too, and would then refuse everybody else.
"""

import asyncio
import contextlib
import gc
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from solver_service.gateway.waiting import WaitingRoom
from solver_service.pool.lifeline import no_core_dumps
from solver_service.settings import Settings

MAX_DESCRIPTORS = 65_536
ACCEPTED_AT_ONCE = 1
"""So many new connections are taken before the others have their turn again."""
WAITING_TO_BE_ACCEPTED = 2048
"""So many more the kernel keeps until then, if it allows."""
GRACE_S = 10
"""So long may requests that are at work take when the gateway ends; a thousand waiters are answered in one or two."""
LEAST_READ_BYTES = 16 * 1024
"""So much of a waiting answer counts as reading it; buffers on the way move on in steps of this order."""
SWITCH_S = 0.0005
"""A thread that needs the GIL waits so long for one that computes, such as the event loop during an upload."""
YOUNGER_FIRST = 100
"""Collections of younger objects before one of all, which takes 0.1 s with thousands of connections."""


def server(
    app: FastAPI,
    settings: Settings,
    *,
    ssl_certfile: Path | None = None,
    ssl_keyfile: Path | None = None,
    each_second: Callable[[], Awaitable[None]] | None = None,
) -> uvicorn.Server:
    """Make the server; its clients' addresses are those of the connections, whatever a header says."""
    no_core_dumps()
    _raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_S)
    collect_all_rarely()

    class Protocol(ImpatientProtocol):
        headers_within_s = settings.headers_within_s
        unread_s = settings.unread_s

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        backlog=ACCEPTED_AT_ONCE,
        log_config=None,  # what it says goes where all is told, see `solver_service.logs`
        log_level="warning",
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        server_header=False,
        proxy_headers=False,
        callback_notify=each_second,
        timeout_notify=0,
    )
    return PoliteServer(config, app.state.waiting_room)


class PoliteServer(uvicorn.Server):
    """Takes new connections one by one, while many may wait in the kernel: asyncio has one number for both.

    When it ends, who waits for a job gets the job as it is, and comes back to the next gateway.
    """

    def __init__(self, config: uvicorn.Config, room: WaitingRoom) -> None:
        super().__init__(config)
        self._room = room

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then have the kernel keep those who knock."""
        await super().startup(sockets)
        gc.freeze()  # what is loaded now stays: full collections need not look at it while everybody waits
        for serving in self.servers:
            for listening in serving.sockets:
                with socket.socket(fileno=os.dup(listening.fileno())) as same:
                    same.listen(WAITING_TO_BE_ACCEPTED)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody wait any longer, then end as uvicorn does."""
        self._room.dismiss()
        await super().shutdown(sockets)


class ImpatientProtocol(H11Protocol):
    """Closes a connection whose next request is not there, headers and all, after so many seconds.

    While a request is at work the guard watches over its body, and between two requests uvicorn's keep-alive does.
    What still comes of a body after its answer is thrown away for a moment, so that the client gets to read the answer.
    A client that takes less than LEAST_READ_BYTES of its answer in `unread_s` seconds is cut off.
    """

    headers_within_s = 10.0
    linger_s = 2.0
    unread_s = 10.0
    _closing: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Stop waiting once a request is at work; otherwise wait, from the first byte of the next one on."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._closing is None:
            self._wait()

    def on_response_complete(self) -> None:
        """Do not wait long for the rest of a body that was refused."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._closing is None:
            self._wait()

    def pause_writing(self) -> None:
        """Begin to look whether the client reads: more waits for it than the transport wants to hold."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """The client has read nearly everything."""
        super().resume_writing()
        self._stop_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Close between two requests; closing waits until the last answer is read, which must not be for ever."""
        super().timeout_keep_alive_handler()
        self._close()

    def _close(self) -> None:
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._expect_reading()

    def _expect_reading(self) -> None:
        self._stop_reading()
        size = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(self.unread_s, self._look_at_reading, size)

    def _look_at_reading(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < min(before, LEAST_READ_BYTES):
            self.transport.abort()
        else:
            self._expect_reading()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._stop_reading()
        super().connection_lost(exc)

    def _wait(self) -> None:
        seconds = self.linger_s if self.conn.their_state is h11.SEND_BODY else self.headers_within_s
        self._closing = self.loop.call_later(seconds, self._close)

    def _stop_waiting(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None


def collect_all_rarely() -> None:
    """Have Python look for cycles among all objects that live ten times as rarely: nobody is served meanwhile."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, YOUNGER_FIRST)


def _raise_descriptor_limit() -> None:
    """Take as many open connections as the system allows; the usual soft limit of 1024 is soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
