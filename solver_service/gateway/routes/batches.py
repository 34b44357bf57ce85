"""/v1/batches: many specs on one snapshot, sent, waited for, compared and cancelled together."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from shared.batches import BatchSpec, BatchStatus
from shared.contracts import MAX_WAIT_S, State
from shared.errors import ErrorCode, SpecError
from solver_service.gateway.auth import Author, Reader
from solver_service.gateway.body import read_body
from solver_service.gateway.documents import BATCH_EXAMPLE, Responses, problems
from solver_service.gateway.guard import media_type
from solver_service.gateway.intake import MAX_SPEC_BYTES, cancel, submit_batch
from solver_service.gateway.problems import ProblemError
from solver_service.gateway.routes.submission import (
    Submission,
    Submitted,
    expect,
    form_body,
    read_contract,
    read_form,
    release_body,
)
from solver_service.gateway.services import Injected, Services
from solver_service.gateway.waiting import Room
from solver_service.rules.batches import PREFIX, Batch, status_of

router = APIRouter(prefix="/v1/batches", tags=["batches"])

BatchId = Annotated[str, Path(pattern=rf"^{PREFIX}[0-9a-f]{{32}}$")]
MAX_BATCH_BYTES = 2 * MAX_SPEC_BYTES
FORM = "multipart/form-data"

_FORM = form_body("batch", "batch (JSON)", '{"specs": [{"objective": "ramp", "radius": 0.1}]}')
_JSON = {"schema": {"$ref": "#/components/schemas/BatchSpec"}, "example": BATCH_EXAMPLE}
_BODY = {"requestBody": {"required": True, "content": {"application/json": _JSON, FORM: _FORM}}}
_CANCELLING: Responses = {202: {"model": BatchStatus, "description": "Solvers are being interrupted."}}


@router.post(
    "",
    status_code=202,
    response_model=BatchStatus,
    openapi_extra=_BODY,
    responses=problems(400, 404, 408, 413),
)
async def create(request: Request, response: Response, submission: Submitted) -> BatchStatus | Response:
    """Queue a job for each of up to 64 specs on one snapshot, all of them or none.

    The snapshot is named, or comes inline, or as a form's file: `curl -F batch=@batch.json -F
    snapshot=@stall.safetensors`. The same Idempotency-Key and body give the same batch. Each job counts for the key.
    """
    expect(request, "application/json", FORM)
    data: bytes | None = None
    if media_type(request.headers) == FORM:
        text, data = await read_form(request, "batch", submission.services.settings.max_json_bytes)
    else:
        text = await read_body(request)
    batch = await submission.accepted(partial(_submit, submission), text, data, kept=MAX_BATCH_BYTES)
    del text, data
    if isinstance(batch, Response):
        return batch
    release_body(request)
    response.headers["Location"] = f"/v1/batches/{batch.id}"
    if submission.wait_s > 0:
        response.headers["Preference-Applied"] = f"wait={submission.wait_s:.0f}"
    look = partial(_look, submission.services, batch)
    return await submission.room.ends_of(batch.jobs, look, within_s=submission.wait_s)


def _submit(submission: Submission, text: bytes, snapshot: bytes | None) -> Batch:
    services, owner = submission.services, submission.owner
    batch = read_contract(BatchSpec, text, field="batch")
    if snapshot is not None and batch.snapshot is not None:
        raise SpecError("leave it out: the snapshot comes as the form's file", field="batch.snapshot")
    return submit_batch(services, owner, batch, file=snapshot, token=submission.token, key=submission.key)


@router.get("/{batch_id}", responses=problems(404))
async def show(
    batch_id: BatchId,
    services: Injected,
    owner: Reader,
    room: Room,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0,
) -> BatchStatus:
    """Show a batch's jobs, best result first; with `wait`, answer when all have ended or after so many seconds.

    Values can be compared within one group, whose jobs minimise the same.
    """
    batch = await run_in_threadpool(_owned, services, owner, batch_id)
    return await room.ends_of(batch.jobs, partial(_look, services, batch), within_s=wait)


@router.delete("/{batch_id}", response_model=BatchStatus, responses=_CANCELLING | problems(404))
def delete(batch_id: BatchId, response: Response, services: Injected, owner: Author) -> BatchStatus:
    """Cancel all jobs of a batch (202, incumbents are kept as results); 200 when they have already ended."""
    batch = _owned(services, owner, batch_id)
    for job in services.store.batches.members(batch):
        if job is not None and not job.state.terminal:
            cancel(services, job.id)
    status = _look(services, batch)
    response.status_code = 202 if status.counts[State.RUNNING] else 200
    return status


def _owned(services: Services, owner: str, batch_id: str) -> Batch:
    batch = services.store.batches.find(owner, batch_id)
    if batch is None:
        raise _unknown()
    return batch


def _look(services: Services, batch: Batch) -> BatchStatus:
    members = services.store.batches.members(batch)
    if not any(members):
        raise _unknown()
    return status_of(batch, members)


def _unknown() -> ProblemError:
    return ProblemError(404, ErrorCode.NOT_FOUND, "no such batch", field="id")
