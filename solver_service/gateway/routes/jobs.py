"""/v1/jobs and /v1/solve: submit, ask, wait, fetch, cancel."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from shared.contracts import MAX_WAIT_S, Feedback, JobList, JobSpec, JobStatus, State
from shared.errors import ErrorCode, SpecError
from solver_service.gateway.auth import Author, Reader
from solver_service.gateway.body import read_body
from solver_service.gateway.documents import SPEC_EXAMPLE, Responses, problems
from solver_service.gateway.download import sending
from solver_service.gateway.intake import MAX_SPEC_BYTES, cancel, require_small, submit
from solver_service.gateway.problems import ProblemError
from solver_service.gateway.routes.submission import (
    InvalidSpecError,
    Submission,
    Submitted,
    expect,
    form_body,
    read_contract,
    read_form,
    release_body,
)
from solver_service.gateway.services import Injected, Services
from solver_service.gateway.waiting import Room, Waiter
from solver_service.rules.jobs import Job, judge

log = structlog.get_logger()

router = APIRouter(prefix="/v1", tags=["jobs"])

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]

LISTED_BY = frozenset({"run", "state", "limit", "cursor"})

_SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}, "example": SPEC_EXAMPLE}},
    }
}
_FEEDBACK_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Feedback"}}},
    }
}
_CANCELLING: Responses = {202: {"model": JobStatus, "description": "The solver is being interrupted."}}
_WEIGHTS: Responses = {
    200: {
        "description": 'Weights as safetensors, with the result in `__metadata__["result"]`.',
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_FORM = form_body("spec", "job spec (JSON)", '{"objective": "zero_one", "radius": 0.1}')
_SOLVE_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": _FORM}}}


async def _queue(
    submission: Submission, waiter: Waiter, text: bytes, snapshot: bytes | None, response: Response
) -> Job | Response:
    """Parse the spec, store what came with it, queue the job; the response to a spec that is not valid."""
    job = await submission.accepted(partial(_submit, submission, waiter), text, snapshot, kept=MAX_SPEC_BYTES)
    if not isinstance(job, Response):
        response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


def _submit(submission: Submission, waiter: Waiter, text: bytes, snapshot: bytes | None) -> Job:
    services, owner = submission.services, submission.owner
    spec = read_contract(JobSpec, text, field="spec")
    if len(text) > MAX_SPEC_BYTES:
        require_small(spec)
    if snapshot is not None and spec.snapshot is not None:
        raise SpecError("leave it out: the snapshot comes as the form's file", field="spec.snapshot")
    # Who waits from before the job's first moment need not look at it once more.
    before = partial(submission.room.expect, waiter=waiter)
    token, key = submission.token, submission.key
    return submit(services, owner, spec, file=snapshot, token=token, key=key, before=before)


async def _answer(
    submission: Submission, waiter: Waiter, queued: Job | Response, request: Request, response: Response
) -> JobStatus | Response:
    """Give the job's record, after its end if that is preferred; nobody needs the body for that."""
    if isinstance(queued, Response):
        return queued
    release_body(request)
    if submission.wait_s > 0:
        response.headers["Preference-Applied"] = f"wait={submission.wait_s:.0f}"
        look = partial(owned, submission.services, submission.owner, queued.id)
        if queued.id in waiter.expected:
            queued = await submission.room.end_after(waiter, queued, look, within_s=submission.wait_s)
        else:  # an earlier submission's
            queued = await submission.room.end_of(queued.id, look, within_s=submission.wait_s)
    return queued.status()


@router.post(
    "/jobs", status_code=202, response_model=JobStatus, openapi_extra=_SPEC_BODY, responses=problems(404, 408, 413)
)
async def create(request: Request, response: Response, submission: Submitted) -> JobStatus | Response:
    """Queue a job; the same Idempotency-Key and body give the same job."""
    expect(request, "application/json")
    with submission.room.waiting_for(end_only=True) as waiter:
        queued = await _queue(submission, waiter, await read_body(request), None, response)
        return await _answer(submission, waiter, queued, request, response)


@router.post(
    "/solve", status_code=202, response_model=JobStatus, openapi_extra=_SOLVE_BODY, responses=problems(400, 408, 413)
)
async def solve(request: Request, response: Response, submission: Submitted) -> JobStatus | Response:
    """Upload a snapshot and queue its job in one call: `curl -F spec=@spec.json -F snapshot=@stall.safetensors`."""
    expect(request, "multipart/form-data")
    text, data = await read_form(request, "spec", submission.services.settings.max_json_bytes)
    with submission.room.waiting_for(end_only=True) as waiter:
        queued = await _queue(submission, waiter, text, data, response)
        del text, data
        return await _answer(submission, waiter, queued, request, response)


@router.get("/jobs", response_model=JobList)
def listing(
    request: Request,
    services: Injected,
    owner: Reader,
    run: Annotated[str | None, Query(max_length=200)] = None,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$")] = None,
) -> Response:
    """List jobs, newest first; a page of large records has fewer of them."""
    if unknown := sorted(set(request.query_params) - LISTED_BY):
        detail = f"{unknown[0]}: no query of this list; it has {', '.join(sorted(LISTED_BY))}"
        raise ProblemError(422, ErrorCode.INVALID_SPEC, detail, field=unknown[0])
    found, following = services.store.jobs.page(owner, run=run, state=state, limit=limit, cursor=cursor)
    # Written here, in a thread of its own, and record by record: one call would keep everybody else waiting.
    jobs = ",".join(job.model_dump_json() for job in _shown(found))
    return Response(f'{{"jobs":[{jobs}],"cursor":{json.dumps(following)}}}', media_type="application/json")


@router.get("/jobs/{job_id}", responses=problems(404, 410))
async def show(
    job_id: JobId,
    services: Injected,
    owner: Reader,
    room: Room,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0,
) -> JobStatus:
    """Show a job; with `wait`, answer when it has ended or after so many seconds."""
    job = await room.end_of(job_id, partial(owned, services, owner, job_id), within_s=wait)
    return job.status()


@router.get("/jobs/{job_id}/result", response_class=Response, responses=_WEIGHTS | problems(404, 409, 410))
def result(job_id: JobId, services: Injected, owner: Reader) -> Response:
    """Fetch the weights as safetensors, with the result's JSON in `__metadata__["result"]`."""
    job = owned(services, owner, job_id)
    if not job.state.terminal:
        detail = f"the job is {job.state.value}; wait for it with GET /v1/jobs/{job_id}?wait=60"
        raise ProblemError(409, ErrorCode.NOT_FINISHED, detail)
    if job.result is None:
        raise ProblemError(404, ErrorCode.NO_RESULT, f"the job ended as {job.state.value} without weights")
    blob = services.store.blobs.result_reader(job_id)
    if not blob[0]:
        raise ProblemError(410, ErrorCode.GONE, "the weights have expired; submit the job again")
    return sending(blob, owner, services.downloads, media_type="application/octet-stream")


@router.delete("/jobs/{job_id}", response_model=JobStatus, responses=_CANCELLING | problems(404, 410))
def delete(job_id: JobId, response: Response, services: Injected, owner: Author) -> JobStatus:
    """Cancel a job (202, its incumbent is kept as the result); 200 when it has already ended."""
    owned(services, owner, job_id)
    cancel(services, job_id)
    job = owned(services, owner, job_id)
    response.status_code = 200 if job.state.terminal else 202
    return job.status()


@router.post(
    "/jobs/{job_id}/feedback",
    response_model=JobStatus,
    openapi_extra=_FEEDBACK_BODY,
    responses=problems(404, 408, 409, 410, 413),
)
async def feedback(job_id: JobId, request: Request, services: Injected, owner: Author) -> JobStatus | Response:
    """Tell what became of the weights."""
    expect(request, "application/json")
    text = await read_body(request)
    try:
        return await run_in_threadpool(_judge, services, owner, job_id, text)
    except InvalidSpecError as error:
        return error.response()


def _judge(services: Services, owner: str, job_id: str, text: bytes) -> JobStatus:
    verdict = read_contract(Feedback, text, field="body")
    job = owned(services, owner, job_id)
    after = services.store.jobs.update(job_id, lambda current: judge(current, verdict))
    if after is None:
        raise ProblemError(409, ErrorCode.NOT_FINISHED, f"the job is {job.state.value} and has no weights to be judged")
    return after.status()


def _shown(found: Iterable[Job]) -> Iterator[JobStatus]:
    """Public records; one that cannot be told keeps no other one from it."""
    for job in found:
        try:
            yield job.status()
        except (ValueError, OverflowError):
            log.exception("a job cannot be shown", job=job.id)


def owned(services: Services, owner: str, job_id: str) -> Job:
    """Read the caller's job; ProblemError 404 for anybody else's, 410 for one whose record cannot be read."""
    job = services.store.jobs.get(job_id)
    if job is None and services.store.jobs.records.is_set_aside(job_id):
        detail = "the job's record could not be read and was set aside; submit the job again, or ask the operator"
        raise ProblemError(410, ErrorCode.GONE, detail, field="id")
    if job is None or job.owner != owner:
        raise ProblemError(404, ErrorCode.NOT_FOUND, "no such job", field="id")
    return job
