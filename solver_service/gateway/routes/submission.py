"""What the routes that submit share: who submits and how, bounds on what comes, turns at it, forms and contracts."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from shared.contracts import Contract
from shared.errors import ErrorCode, SpecError
from solver_service.gateway.auth import Submitter
from solver_service.gateway.guard import UPLOAD, media_type, require_media_type
from solver_service.gateway.observed import CALLER
from solver_service.gateway.problems import ProblemError, validation_response
from solver_service.gateway.services import Injected, Services
from solver_service.gateway.shares import Upload
from solver_service.gateway.waiting import Preferred, Room, WaitingRoom

Body = TypeVar("Body", bound=Contract)
Made = TypeVar("Made")
Token = Annotated[str | None, Header(alias="Idempotency-Key")]

JSON_TIMES = 8
"""A byte of JSON takes as much memory and time as so many of a snapshot."""

BARE = {"include_url": False, "include_input": False, "include_context": False}
MOST_ERRORS = 1000
"""Of more than so many in a body only their number is told: listing 200,000 takes 0.4 s, in which nobody is served."""


class InvalidSpecError(Exception):
    """The spec is not of the contract's form; it says where."""

    def __init__(self, kind: type[Contract], found: list[Any]) -> None:
        super().__init__(found)
        self.kind = kind
        self.found = found

    def response(self) -> Response:
        """The answer to it."""
        return validation_response(self.found, self.kind)


@dataclass(frozen=True)
class Submission:
    """Who submits, and how: all that the submitting routes share."""

    services: Services
    owner: str
    room: WaitingRoom
    token: str | None
    wait_s: float
    key: str = ""

    async def accepted(
        self, submit: Callable[[bytes, bytes | None], Made], text: bytes, snapshot: bytes | None, *, kept: int
    ) -> Made | Response:
        """Bound the JSON, of which so much is `kept`, and submit in turn; the response to what is not valid."""
        if len(text) > (most := self.services.settings.max_json_bytes):
            detail = f"the spec is over {most:,} bytes; upload the snapshot as safetensors"
            raise ProblemError(413, ErrorCode.TOO_LARGE, detail, field="spec")
        if len(text) > 2 * kept and b'"tensors"' not in text:  # parsing it would keep everybody waiting
            detail = f"{len(text):,} bytes without a snapshot in it, at most {kept:,} are kept"
            raise ProblemError(413, ErrorCode.TOO_LARGE, detail, field="spec")
        try:
            async with self.services.turns.turn(self.owner, JSON_TIMES * len(text) + len(snapshot or b"")):
                return await run_in_threadpool(submit, text, snapshot)  # all of it: a spec may be long
        except InvalidSpecError as error:
            return error.response()


async def _submission(
    request: Request, services: Injected, owner: Submitter, room: Room, wait_s: Preferred, token: Token = None
) -> Submission:
    return Submission(services, owner, room, token, wait_s, request.scope[CALLER][1])


Submitted = Annotated[Submission, Depends(_submission)]


def read_contract(kind: type[Body], text: bytes, *, field: str) -> Body:
    """Read JSON of a contract's form; SpecError for what is no JSON, InvalidSpecError for another form."""
    try:
        return _parsed(kind, text)
    except ValidationError as error:
        raise InvalidSpecError(kind, _listed(error)) from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"not JSON: {type(error).__name__}", field=field) from error


def _listed(error: ValidationError) -> list[Any]:
    """What is wrong, one by one."""
    if (found := error.error_count()) <= MOST_ERRORS:
        return error.errors(**BARE)
    return [{"type": "too_many_errors", "loc": (), "msg": f"{found:,} fields in it are not as they must be"}]


def _parsed(kind: type[Body], text: bytes) -> Body:
    """Fast, or as the standard library does: it reads half a surrogate pair, of which the field can then be named.

    What it reads is held to the same types.
    """
    try:
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        if _listed(error)[0]["type"] != "json_invalid":
            raise
    read = json.loads(text)
    found = kind.model_validate(read)
    kind.model_validate_json(json.dumps(read, ensure_ascii=False).encode(errors="replace"), strict=True)
    return found


async def read_form(request: Request, field: str, limit: int) -> tuple[bytes, bytes]:
    """The JSON of at most `limit` bytes in a form's field or file, and the snapshot beside it."""
    async with request.form(max_files=2, max_fields=2, max_part_size=limit) as form:
        spec, snapshot = form.get(field), form.get("snapshot")
        if not isinstance(snapshot, UploadFile):
            raise SpecError("missing: send the safetensors file as the form's file `snapshot`", field="snapshot")
        if spec is None:
            raise SpecError(f"missing: send its JSON as the form's field or file `{field}`", field=field)
        text = spec.encode(errors="replace") if isinstance(spec, str) else await spec.read(limit + 1)
        return text, await snapshot.read()


def expect(request: Request, *wanted: str) -> None:
    """ProblemError 415 for a body of another media type."""
    wrong = require_media_type(media_type(request.headers), wanted)
    if wrong is not None:
        raise ProblemError(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, wrong, field="Content-Type")


def release_body(request: Request) -> None:
    """Give back what the body of a submission has held, which nobody needs any more."""
    upload: Upload = request.scope[UPLOAD]
    upload.done()


def form_body(field: str, what: str, example: str) -> dict[str, Any]:
    """How the OpenAPI document describes a form with JSON and a snapshot."""
    described = {
        "type": "string",
        "description": f"{what}, as a field or a file, without `snapshot`",
        "example": example,
    }
    return {
        "schema": {
            "type": "object",
            "required": [field, "snapshot"],
            "properties": {field: described, "snapshot": {"type": "string", "format": "binary"}},
        }
    }
