"""The pool page: static files that any browser may load; what they show comes through the REST interface alone."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from shared.errors import ErrorCode
from solver_service.gateway.problems import ProblemError

router = APIRouter(include_in_schema=False)

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "object-src 'none'",
        # Browsers that know it refuse innerHTML and its like, so that a job's text can never become markup.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked after each time: an upgraded pool shows its new page at once
}


@dataclass(frozen=True)
class Asset:
    """One file of the page, as it is sent."""

    data: bytes
    media_type: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """Read the page's files, by name, out of the installed package; only these can ever be asked for."""
    found = {}
    for file in files("solver_service.gateway").joinpath("page").iterdir():
        media_type = MEDIA_TYPES.get(f".{file.name.rpartition('.')[2]}")
        if media_type is not None:
            data = file.read_bytes()
            found[file.name] = Asset(data, media_type, f'"{hashlib.sha256(data).hexdigest()[:32]}"')
    return found


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """Show the pool page."""
    return _answer(request, "index.html")


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def asset(request: Request, name: str) -> Response:
    """Fetch one of the page's files."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    """The file, or 304 to a browser that has this very one."""
    found = assets().get(name)
    if found is None:
        raise ProblemError(404, ErrorCode.NOT_FOUND, "the page has no such file")
    headers = _HEADERS | {"ETag": found.tag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if found.tag in known:
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type=found.media_type, headers=headers)
