"""/v1/snapshots: upload once, refer to it by its hash."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from shared.contracts import SnapshotInfo
from shared.errors import ErrorCode
from shared.snapshot import snapshot_id
from solver_service.gateway.auth import Author, Reader
from solver_service.gateway.body import read_body
from solver_service.gateway.documents import Responses, problems
from solver_service.gateway.guard import media_type
from solver_service.gateway.intake import store_snapshot
from solver_service.gateway.problems import ProblemError
from solver_service.gateway.services import Injected
from solver_service.purge import SnapshotNeededError, delete_snapshot

router = APIRouter(prefix="/v1/snapshots", tags=["snapshots"])

Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the snapshot's bytes")]
_THERE: Responses = {200: {"model": SnapshotInfo, "description": "It was there already."}}
_NOT_BINARY = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
_BODY = {
    "requestBody": {
        "required": True,
        "description": "a `gdsolver.snapshot/1` safetensors file",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("", status_code=201, openapi_extra=_BODY, responses=_THERE | problems(408, 413))
async def upload(request: Request, response: Response, services: Injected, owner: Author) -> SnapshotInfo:
    """Store a snapshot (safetensors); 200 when it was there already."""
    data = await _binary_body(request)
    async with services.turns.turn(owner, len(data)):
        info, new = await run_in_threadpool(store_snapshot, services, owner, data)
    response.status_code = 201 if new else 200
    return info


@router.put("/{digest}", status_code=201, openapi_extra=_BODY, responses=_THERE | problems(408, 413))
async def upload_checked(
    digest: Digest, request: Request, response: Response, services: Injected, owner: Author
) -> SnapshotInfo:
    """Store a snapshot whose hash the sender knows; 422 when the bytes do not have it."""
    data = await _binary_body(request)
    if await run_in_threadpool(snapshot_id, data) != digest:
        detail = "the body's SHA-256 is another one; it was changed or cut off on its way"
        raise ProblemError(422, ErrorCode.HASH_MISMATCH, detail, field="sha256")
    async with services.turns.turn(owner, len(data)):
        info, new = await run_in_threadpool(store_snapshot, services, owner, data)
    response.status_code = 201 if new else 200
    return info


@router.head("/{digest}", status_code=200, responses={404: {"description": "It is not there."}})
def exists(digest: Digest, services: Injected, owner: Reader) -> Response:
    """Say whether a snapshot is there: 200 or 404."""
    return Response(status_code=200 if services.store.blobs.has_snapshot(owner, digest) else 404)


@router.delete("/{digest}", status_code=204, response_class=Response, responses=problems(404, 409))
def delete(digest: Digest, services: Injected, owner: Author) -> Response:
    """Delete a snapshot; 409 while a job needs it."""
    try:
        found = delete_snapshot(services.store, owner, digest)
    except SnapshotNeededError as error:
        raise ProblemError(409, ErrorCode.NOT_FINISHED, str(error), field="digest") from None
    if not found:
        raise ProblemError(404, ErrorCode.NOT_FOUND, "no such snapshot", field="digest")
    return Response(status_code=204)


async def _binary_body(request: Request) -> bytes:
    found = media_type(request.headers)
    if found in _NOT_BINARY:
        detail = f"content type {found!r}, expected application/octet-stream (curl: --data-binary @FILE -H ...)"
        raise ProblemError(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, detail, field="Content-Type")
    return await read_body(request)
