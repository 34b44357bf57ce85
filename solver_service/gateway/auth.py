"""Who is asking: one API key from the settings, or the one owner of a keyless loopback gateway."""

import hashlib
import hmac
from typing import Annotated

from fastapi import Depends, Request

from shared.errors import ErrorCode
from solver_service.gateway.problems import ProblemError

KEYLESS_OWNER = "local"


def owner_of(key: str) -> str:
    """The name under which a key's jobs and snapshots are kept; it does not reveal the key."""
    return hashlib.sha256(b"gdsolver owner " + key.encode()).hexdigest()[:16]


def current_owner(request: Request) -> str:
    """Check the bearer token and name the owner; ProblemError 401 otherwise."""
    expected: str | None = request.app.state.services.key
    if expected is None:
        return KEYLESS_OWNER
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise ProblemError(401, ErrorCode.UNAUTHORIZED, "send `Authorization: Bearer KEY`", field="Authorization")
    if not hmac.compare_digest(token.strip().encode(), expected.encode()):
        raise ProblemError(401, ErrorCode.UNAUTHORIZED, "this API key is not valid", field="Authorization")
    return owner_of(expected)


Owner = Annotated[str, Depends(current_owner)]
