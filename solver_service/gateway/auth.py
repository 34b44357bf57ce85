"""Who is asking, and whether they may: stored keys, the key of the settings, or the one owner of a keyless gateway."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated

import structlog
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from shared.errors import ErrorCode
from solver_service.gateway.guard import UPLOAD
from solver_service.gateway.observed import CALLER
from solver_service.gateway.problems import ProblemError
from solver_service.gateway.services import Services
from solver_service.gateway.shares import Upload
from solver_service.rules import owners
from solver_service.rules.owners import ALL_SCOPES, KEYLESS_OWNER, Caller, Scope
from solver_service.store.limits import LimitReachedError

log = structlog.get_logger()

UNGUESSABLE = 32
"""A key of so many characters cannot be found by guessing, so that it is let in however many guesses came before."""


def authenticate(services: Services, authorization: str, address: str) -> Caller:
    """Name the caller; ProblemError 401 for no key or a wrong one, LimitReachedError after too many wrong ones."""
    if services.door.keyless():
        return Caller(KEYLESS_OWNER, ALL_SCOPES)
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise ProblemError(401, ErrorCode.UNAUTHORIZED, "send `Authorization: Bearer KEY`", field="Authorization")
    wait_s = services.failures.wait_s(address)
    caller = _holder(services, token, guessed=wait_s > 0)
    if caller is not None:
        return caller
    if services.failures.note(address):
        log.warning("too many invalid keys: throttled", address=address)
    if wait_s > 0:
        detail = "too many invalid API keys came from your address"
        raise LimitReachedError(detail, code=ErrorCode.TOO_MANY_FAILURES, retry_after_s=wait_s)
    raise ProblemError(401, ErrorCode.UNAUTHORIZED, "this API key is not valid", field="Authorization")


def _holder(services: Services, token: str, *, guessed: bool) -> Caller | None:
    """Whose token it is. A key short enough to be guessed is not even compared while somebody guesses."""
    expected = services.key
    comparable = expected is not None and (len(expected) >= UNGUESSABLE or not guessed)
    if expected is not None and comparable and hmac.compare_digest(token.encode(), expected.encode()):
        return Caller(owners.owner_of(expected), ALL_SCOPES, "settings")
    key_id = owners.key_id(token)
    key = None if key_id is None else services.store.apikeys.find(key_id)
    return Caller(key.owner, key.scopes, key.id) if key is not None and key.opens_with(token) else None


def needing(*scopes: Scope, submitting: bool = False) -> Callable[[Request], Awaitable[str]]:
    """Make the dependency that lets in callers with one of these scopes, and gives their owner's name.

    With `submitting` the request counts against the owner's limits, before its body is read.
    """

    async def owner(request: Request) -> str:
        services: Services = request.app.state.services
        address = request.client.host if request.client else ""
        authorization = request.headers.get("authorization", "")

        def let_in() -> str:
            caller = authenticate(services, authorization, address)
            request.scope[CALLER] = caller.owner, caller.key
            if not set(scopes) & set(caller.scopes):
                detail = f"this key lacks the scope {' or '.join(f'`{scope}`' for scope in scopes)}"
                raise ProblemError(403, ErrorCode.FORBIDDEN, detail, field="Authorization")
            if submitting:
                services.store.limits.admit(caller.owner, token=request.headers.get("idempotency-key"))
            return caller.owner

        # In a thread where Redis is asked; a thread costs as much as the answer that the door just remembers.
        found = let_in() if services.door.known_keyless else await run_in_threadpool(let_in)
        upload: Upload | None = request.scope.get(UPLOAD)
        if upload is not None:
            upload.belongs_to(found)
        return found

    return owner


Reader = Annotated[str, Depends(needing(Scope.READ, Scope.SUBMIT))]
"""The owner behind a request that looks at the owner's own things."""
Author = Annotated[str, Depends(needing(Scope.SUBMIT))]
"""The owner behind a request that changes something."""
Admin = Annotated[str, Depends(needing(Scope.ADMIN))]
"""Somebody who may look at the whole pool."""
Monitor = Annotated[str, Depends(needing(Scope.ADMIN, Scope.READ))]
"""Somebody who may read the pool's counters."""

Submitter = Annotated[str, Depends(needing(Scope.SUBMIT, submitting=True))]
"""The owner behind a submission, which was counted against the owner's limits before its body is read."""
