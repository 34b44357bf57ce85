"""What is refused before any route runs: foreign hosts, cross-site pages, bodies encoded, too long or too slow."""

import asyncio
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import ErrorCode
from solver_service.errors import StoreUnavailableError
from solver_service.gateway.door import Door
from solver_service.gateway.problems import RETRY_AFTER_S, problem_response
from solver_service.gateway.shares import Shares, Upload
from solver_service.settings import MEBIBYTE, Settings

UNPAUSED_BYTES = 64 * MEBIBYTE
"""So much of a body is read as fast as it comes, if no other is on its way."""
PAUSE_S = 0.005
"""After each MiB beyond, times the uploads: all together leave the event loop to others (200 MB a second)."""

TAKE_SNAPSHOTS = ("/v1/snapshots", "/v1/solve")
TAKES_SPECS, TAKES_BATCHES = "/v1/jobs", "/v1/batches"
MAX_SMALL_BYTES = 64 * 1024
"""What else is sent are a few numbers and words."""
UPLOAD = "gdsolver.upload"
"""Under this name a request's scope has the account of its body, to be told whose it is."""
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """ASGI middleware that looks at headers and counts the body as it streams."""

    def __init__(self, app: ASGIApp, settings: Settings, door: Door, on_their_way: Shares) -> None:
        self._app = app
        self._door = door
        self._max_bytes = settings.max_body_bytes
        self._max_json_bytes = settings.max_json_bytes
        self._on_their_way = on_their_way
        self._uploads = 0
        self._grace_s = settings.body_grace_s
        self._s_per_byte = settings.body_s_per_mebibyte / MEBIBYTE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with a problem, or hand the request on with a counted body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = self._most(scope["path"], headers)
        refusal = await self._refusal(headers, most)
        if refusal is not None:
            await problem_response(refusal[0], refusal[1], refusal[2], field=refusal[3])(scope, receive, send)
            return
        await self._with_counted_body(scope, receive, send, most=most)

    async def _refusal(self, headers: Headers, most: int) -> tuple[int, ErrorCode, str, str] | None:
        foreign = not is_loopback_host(headers.get("host", ""))
        if (foreign or is_cross_site(headers)) and await self._keyless():
            if foreign:
                detail = "without an API key only this machine is served; use http://127.0.0.1 or set GDSOLVER_API_KEY"
                return 403, ErrorCode.FORBIDDEN, detail, "Host"
            return 403, ErrorCode.FORBIDDEN, "requests from other sites' pages are refused", "Origin"
        if headers.get("content-encoding", "identity").lower() != "identity":
            return 415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding", "Content-Encoding"
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > most:
            return 413, ErrorCode.TOO_LARGE, self._too_large(most), "Content-Length"
        return None

    def _most(self, path: str, headers: Headers) -> int:
        """How long the body may be: only snapshots are long, and JSON takes many times its length to parse."""
        form = path == TAKES_BATCHES and media_type(headers) == "multipart/form-data"
        if form or path.startswith(TAKE_SNAPSHOTS):
            return self._max_bytes
        most = min(self._max_bytes, self._max_json_bytes)
        return most if path in (TAKES_SPECS, TAKES_BATCHES) else min(most, MAX_SMALL_BYTES)

    async def _keyless(self) -> bool:
        try:
            return await run_in_threadpool(self._door.keyless)
        except StoreUnavailableError:
            return True  # not known: the door stays shut

    def _too_large(self, most: int) -> str:
        if most < self._max_bytes:
            return f"the body is over {most:,} bytes; upload a snapshot as safetensors, not within the spec"
        return f"the body is over {most:,} bytes; send fewer samples or project the inputs"

    async def _with_counted_body(self, scope: Scope, receive: Receive, send: Send, *, most: int) -> None:
        received, whole, long = 0, False, False
        patience_s = self._grace_s  # what is waited for the next piece; each piece earns some, but none is saved up
        sender = scope.get("client") or ("",)
        upload = scope[UPLOAD] = Upload(self._on_their_way, f"address {sender[0]}")

        async def counted() -> Message:
            nonlocal received, whole, long, patience_s
            if whole:  # what comes now is the client's leaving, which may take as long as it likes
                return await receive()
            began = time.monotonic()
            try:
                async with asyncio.timeout(patience_s):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, self._too_slow(received)) from None
            size = len(message.get("body", b""))
            received += size
            earned_s = size * self._s_per_byte - (time.monotonic() - began)
            patience_s = max(0.0, min(self._grace_s, patience_s + earned_s))
            whole = not message.get("more_body", False)
            if received > most:
                raise HTTPException(413, self._too_large(most))
            if not upload.add(size):
                detail = "uploads of this key hold their share of what may be on its way already; try again later"
                raise HTTPException(429, detail, {"Retry-After": RETRY_AFTER_S})
            if received // MEBIBYTE > (received - size) // MEBIBYTE:
                self._uploads += not long
                long = True
                alone = self._uploads == 1
                await asyncio.sleep(0 if alone and received < UNPAUSED_BYTES else PAUSE_S * self._uploads)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            upload.done()
            self._uploads -= long

    def _too_slow(self, received: int) -> str:
        return (
            f"only {received:,} bytes of the body came in time; send them faster than "
            f"{1 / (1000 * self._s_per_byte):,.0f} kB a second, without pauses of {self._grace_s:g} s"
        )


def is_loopback_host(host: str) -> bool:
    """Whether a Host header names this machine, with or without a port."""
    return _hostname(f"//{host}") in LOOPBACK_HOSTS


def is_cross_site(headers: Headers) -> bool:
    """Whether a browser says that another site's page made the request."""
    if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
        return True
    origin = headers.get("origin")
    return origin is not None and _netloc(origin) != headers.get("host", "").lower()


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None


def media_type(headers: Headers) -> str:
    """The media type of a body, without its parameters."""
    return headers.get("content-type", "").split(";")[0].strip().lower()


def require_media_type(found: str, allowed: Iterable[str]) -> str | None:
    """Say what is wrong with a media type; None when it is one of those allowed."""
    wanted = tuple(allowed)
    return None if found in wanted else f"content type {found or 'missing'!r:.60}, expected {' or '.join(wanted)}"
