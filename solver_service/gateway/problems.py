"""Every error as problem+json: a stable code, the field at fault, and what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from shared.contracts import FieldError, Problem
from shared.errors import ContractError, ErrorCode
from solver_service.errors import StoreDiskError, StoreFullError, StoreRefusedError, StoreUnavailableError
from solver_service.gateway.observed import PROBLEM
from solver_service.gateway.places import KEY, LONGEST, likely, place
from solver_service.store.jobs import IdempotencyMismatchError, QueueFullError
from solver_service.store.limits import LimitReachedError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = "2"
LEFT = 499
"""The status, of nginx's making, of a request whose client left in the middle of its body."""

_TITLES = {
    400: "The request cannot be read",
    401: "An API key is needed",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Not finished",
    410: "Gone",
    413: "Too large",
    415: "Unsupported media type",
    416: "No such range",
    422: "The request is not valid",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
}
_CODES = {
    400: ErrorCode.INVALID_SPEC,
    401: ErrorCode.UNAUTHORIZED,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    408: ErrorCode.REQUEST_TIMEOUT,
    413: ErrorCode.TOO_LARGE,
    429: ErrorCode.RATE_LIMITED,
    415: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
}


class ProblemError(Exception):
    """A route's way to answer with a problem."""

    def __init__(
        self, status: int, code: ErrorCode, detail: str, *, field: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field


class ProblemResponse(JSONResponse):
    """The response to an error; it leaves the error's code with the request, for who counts them."""

    media_type = MEDIA_TYPE
    code = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        scope[PROBLEM] = self.code
        await super().__call__(scope, receive, send)


def problem_response(
    status: int,
    code: str,
    detail: str,
    *,
    field: str | None = None,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Build the response to an error."""
    body = Problem(
        type=f"urn:gdsolver:{code}",
        title=_TITLES.get(status, "Error"),
        status=status,
        code=code,
        detail=_printable(detail),
        field=None if field is None else _printable(field),
        errors=list(errors),
    )
    response = ProblemResponse(body.model_dump(mode="json"), status_code=status, headers=dict(headers or {}))
    response.code = str(code)
    return response


def _printable(text: str) -> str:
    """Replace what UTF-8 cannot hold: a client's text that is echoed may have half a surrogate pair."""
    return text.encode(errors="replace").decode()


def contract_status(error: ContractError) -> int:
    """The HTTP status of a contract error."""
    return 413 if error.code is ErrorCode.TOO_LARGE else 422


def install(app: FastAPI) -> None:
    """Register a handler for every kind of error."""

    @app.exception_handler(ProblemError)
    def _problem(_: Request, error: ProblemError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        return problem_response(error.status, error.code, error.detail, field=error.field, headers=headers)

    @app.exception_handler(ContractError)
    def _contract(_: Request, error: ContractError) -> JSONResponse:
        return problem_response(contract_status(error), error.code, error.detail, field=error.field)

    @app.exception_handler(RequestValidationError)
    def _validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return validation_response(error.errors())

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        code, detail = _CODES.get(error.status_code, ErrorCode.INVALID_SPEC), str(error.detail)
        headers = dict(error.headers or {})
        if error.status_code == 405 and (methods := _methods(request)):
            headers["Allow"] = ", ".join(methods)
            detail = f"{request.method} is no method of this address; use {headers['Allow']}"
        return problem_response(error.status_code, code, detail, headers=headers)

    @app.exception_handler(IdempotencyMismatchError)
    def _idempotency(_: Request, __: IdempotencyMismatchError) -> JSONResponse:
        detail = "this key was used for another submission; use a new key for a new job"
        return problem_response(422, ErrorCode.IDEMPOTENCY_MISMATCH, detail, field="Idempotency-Key")

    @app.exception_handler(QueueFullError)
    def _full(_: Request, error: QueueFullError) -> JSONResponse:
        detail = f"{error}; try again later or add solver workers"
        return problem_response(429, ErrorCode.QUEUE_FULL, detail, headers={"Retry-After": RETRY_AFTER_S})

    @app.exception_handler(LimitReachedError)
    def _limit(_: Request, error: LimitReachedError) -> JSONResponse:
        return problem_response(429, error.code, str(error), headers={"Retry-After": str(error.retry_after_s)})

    @app.exception_handler(StoreUnavailableError)
    def _store(_: Request, error: StoreUnavailableError) -> JSONResponse:
        log.warning("store unavailable", reason=str(error))
        what = "Redis has no memory left" if isinstance(error, StoreFullError) else "Redis is away"
        detail = f"{what}; accepted jobs are kept, try again soon"
        if isinstance(error, StoreDiskError):
            cure = "its operator has to make room on the disk of the data folder"
            detail = f"Redis cannot write to its disk: {cure}; accepted jobs are kept, try again after that"
        if isinstance(error, StoreRefusedError):
            detail = "Redis refuses this gateway's password: its operator has to correct GDSOLVER_REDIS_URL"
        return problem_response(503, ErrorCode.STORE_UNAVAILABLE, detail, headers={"Retry-After": RETRY_AFTER_S})

    @app.exception_handler(ClientDisconnect)
    def _left(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=LEFT)  # nobody reads it: it is for who counts, and the audit line

    @app.exception_handler(Exception)
    def _internal(_: Request, __: Exception) -> JSONResponse:
        return problem_response(500, ErrorCode.INTERNAL, "the gateway failed; its log says why")


def _methods(request: Request) -> list[str]:
    """Those that are described of this address: the error itself knows of the first of its routes alone."""
    described = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", ""), {})
    return sorted(method.upper() for method in described)


def validation_response(errors: Sequence[Any], kind: type[BaseModel] | None = None) -> JSONResponse:
    """Answer pydantic's errors, of a body of this kind: fields and expectations, never the values that were sent."""
    found = errors if kind is None else likely(kind, errors)
    fields = [FieldError(field=_printable(_path(error, kind)), detail=_printable(_said(error))) for error in found[:20]]
    detail = "; ".join(f"{item.field}: {item.detail}" for item in fields[:3])
    return problem_response(
        422, ErrorCode.INVALID_SPEC, detail, field=fields[0].field if fields else None, errors=fields
    )


def _said(error: Any) -> str:
    """What is expected, in words where pydantic would quote a regular expression."""
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1] == "batch_id":
        return "expected a batch's id: `batch_` and 32 digits from 0-9 and a-f"
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1] in ("job_id", "cursor"):
        return "expected a job's id: 32 digits from 0-9 and a-f"
    return f"its name: {error['msg']}" if error["loc"][-1:] == (KEY,) else str(error["msg"])


def _path(error: Any, kind: type[BaseModel] | None) -> str:
    if kind is None:
        location = [part for part in error["loc"] if part not in ("body", "query", "path", "header")]
    else:
        location = list(place(kind, error))
    if len(location) > 1 and location[0] == "specs":  # of a batch: which one it is comes first
        location = [f"specs[{location[1]}]", *location[2:]]
    return ".".join(str(part)[:LONGEST] for part in location if part != "") or "body"
