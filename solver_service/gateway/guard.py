"""What is refused before any route runs: foreign hosts, cross-site pages, encoded bodies, bodies too long."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import ErrorCode
from solver_service.gateway.problems import problem_response
from solver_service.settings import Settings

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """ASGI middleware that looks at headers and counts the body as it streams."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._keyless = settings.key is None
        self._max_bytes = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with a problem, or hand the request on with a counted body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers)
        if refusal is not None:
            await problem_response(refusal[0], refusal[1], refusal[2], field=refusal[3])(scope, receive, send)
            return
        await self._with_counted_body(scope, receive, send)

    def _refusal(self, headers: Headers) -> tuple[int, ErrorCode, str, str] | None:
        if self._keyless and not is_loopback_host(headers.get("host", "")):
            detail = "without an API key only this machine is served; use http://127.0.0.1 or set GDSOLVER_API_KEY"
            return 403, ErrorCode.FORBIDDEN, detail, "Host"
        if self._keyless and is_cross_site(headers):
            return 403, ErrorCode.FORBIDDEN, "requests from other sites' pages are refused", "Origin"
        if headers.get("content-encoding", "identity").lower() != "identity":
            return 415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding", "Content-Encoding"
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._max_bytes:
            return 413, ErrorCode.TOO_LARGE, self._too_large(), "Content-Length"
        return None

    def _too_large(self) -> str:
        return f"the body is over {self._max_bytes:,} bytes; send fewer samples or project the inputs"

    async def _with_counted_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, self._too_large())
            return message

        await self._app(scope, counted, send)


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
