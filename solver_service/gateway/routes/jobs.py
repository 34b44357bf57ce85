"""/v1/jobs and /v1/solve: submit, ask, wait, fetch, cancel."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from shared.contracts import MAX_WAIT_S, Feedback, JobList, JobSpec, JobStatus, State
from shared.errors import ErrorCode, SpecError
from solver_service.gateway.auth import Author, Reader, Submitter
from solver_service.gateway.body import read_body
from solver_service.gateway.documents import SPEC_EXAMPLE, Responses, problems
from solver_service.gateway.download import sending
from solver_service.gateway.guard import UPLOAD, media_type, require_media_type
from solver_service.gateway.intake import MAX_SPEC_BYTES, cancel, require_small, store_snapshot, submit
from solver_service.gateway.observed import CALLER
from solver_service.gateway.problems import ProblemError, validation_response
from solver_service.gateway.services import Injected, Services
from solver_service.gateway.shares import Upload
from solver_service.gateway.waiting import Preferred, Room, WaitingRoom
from solver_service.rules.jobs import Job, judge

router = APIRouter(prefix="/v1", tags=["jobs"])

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
Token = Annotated[str | None, Header(alias="Idempotency-Key")]

JSON_TIMES = 8
"""A byte of JSON takes as much memory and time as so many of a snapshot."""
MAX_PAGE_BYTES = 500_000
"""Of records on a page; what is sent says run and tags twice."""

_SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}, "example": SPEC_EXAMPLE}},
    }
}
_CANCELLING: Responses = {202: {"model": JobStatus, "description": "The solver is being interrupted."}}
_WEIGHTS: Responses = {
    200: {
        "description": 'Weights as safetensors, with the result in `__metadata__["result"]`.',
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_SOLVE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["spec", "snapshot"],
                    "properties": {
                        "spec": {
                            "type": "string",
                            "description": "job spec (JSON), as a field or a file, without `snapshot`",
                            "example": '{"objective": "zero_one", "radius": 0.1}',
                        },
                        "snapshot": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


class InvalidSpecError(Exception):
    """The spec is not of the contract's form; it says where."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__(found)
        self.found = found


@dataclass(frozen=True)
class Submission:
    """Who submits a job, and how: all that both submitting routes share."""

    services: Services
    owner: str
    room: WaitingRoom
    token: str | None
    wait_s: float
    key: str = ""

    async def queue(self, text: bytes, snapshot: bytes | None, response: Response) -> Job | Response:
        """Parse the spec, store what came with it, queue the job; the response to a spec that is not valid."""
        if len(text) > (most := self.services.settings.max_json_bytes):
            detail = f"the spec is over {most:,} bytes; upload the snapshot as safetensors"
            raise ProblemError(413, ErrorCode.TOO_LARGE, detail, field="spec")
        if len(text) > 2 * MAX_SPEC_BYTES and b'"tensors"' not in text:  # parsing it would keep everybody waiting
            detail = f"{len(text):,} bytes without a snapshot in it, at most {MAX_SPEC_BYTES:,} are kept"
            raise ProblemError(413, ErrorCode.TOO_LARGE, detail, field="spec")
        try:
            async with self.services.turns.turn(self.owner, JSON_TIMES * len(text) + len(snapshot or b"")):
                job = await run_in_threadpool(self._submit, text, snapshot)  # all of it: a spec may be long
        except InvalidSpecError as error:
            return validation_response(error.found)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return job

    async def answer(self, queued: Job | Response, request: Request, response: Response) -> JobStatus | Response:
        """Give the job's record, after its end if that is preferred; nobody needs the body for that."""
        if isinstance(queued, Response):
            return queued
        upload: Upload = request.scope[UPLOAD]
        upload.done()
        if self.wait_s > 0:
            response.headers["Preference-Applied"] = f"wait={self.wait_s:.0f}"
            look = partial(owned, self.services, self.owner, queued.id)
            queued = await self.room.end_of(queued.id, look, within_s=self.wait_s)
        return queued.status()

    def _submit(self, text: bytes, snapshot: bytes | None) -> Job:
        try:
            spec = JobSpec.model_validate(_read_json(text))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            raise InvalidSpecError(found) from None
        if len(text) > MAX_SPEC_BYTES:
            require_small(spec)
        if snapshot is not None:
            if spec.snapshot is not None:
                raise SpecError("leave it out: the snapshot comes as the form's file", field="spec.snapshot")
            info, _ = store_snapshot(self.services, self.owner, snapshot)
            spec = spec.model_copy(update={"snapshot": info.id})
        return submit(self.services, self.owner, spec, token=self.token, key=self.key)


async def _submission(
    request: Request, services: Injected, owner: Submitter, room: Room, wait_s: Preferred, token: Token = None
) -> Submission:
    return Submission(services, owner, room, token, wait_s, request.scope[CALLER][1])


Submitted = Annotated[Submission, Depends(_submission)]


def _read_json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"not JSON: {type(error).__name__}", field="spec") from error


@router.post(
    "/jobs", status_code=202, response_model=JobStatus, openapi_extra=_SPEC_BODY, responses=problems(404, 408, 413)
)
async def create(request: Request, response: Response, submission: Submitted) -> JobStatus | Response:
    """Queue a job; the same Idempotency-Key and body give the same job."""
    _expect(request, "application/json")
    queued = await submission.queue(await read_body(request), None, response)
    return await submission.answer(queued, request, response)


@router.post(
    "/solve", status_code=202, response_model=JobStatus, openapi_extra=_SOLVE_BODY, responses=problems(400, 408, 413)
)
async def solve(request: Request, response: Response, submission: Submitted) -> JobStatus | Response:
    """Upload a snapshot and queue its job in one call: `curl -F spec=@spec.json -F snapshot=@stall.safetensors`."""
    _expect(request, "multipart/form-data")
    limit = submission.services.settings.max_json_bytes
    async with request.form(max_files=2, max_fields=2, max_part_size=limit) as form:
        spec, snapshot = form.get("spec"), form.get("snapshot")
        if not isinstance(snapshot, UploadFile):
            raise SpecError("missing: send the safetensors file as the form's file `snapshot`", field="snapshot")
        if spec is None:
            raise SpecError("missing: send the job spec as the form's field or file `spec`", field="spec")
        text = spec.encode(errors="replace") if isinstance(spec, str) else await spec.read(limit + 1)
        data = await snapshot.read()
    queued = await submission.queue(text, data, response)
    del text, data
    return await submission.answer(queued, request, response)


@router.get("/jobs")
def listing(
    services: Injected,
    owner: Reader,
    run: Annotated[str | None, Query(max_length=200)] = None,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$")] = None,
) -> JobList:
    """List jobs, newest first; a page of large records has fewer of them."""
    found, following = services.store.jobs.page(owner, run=run, state=state, limit=limit, cursor=cursor)
    size = 0
    for number, job in enumerate(found[:-1], 1):
        size += len(job.model_dump_json())
        if size > MAX_PAGE_BYTES:
            return JobList(jobs=[job.status() for job in found[:number]], cursor=job.id)
    return JobList(jobs=[job.status() for job in found], cursor=following)


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


@router.delete("/jobs/{job_id}", response_model=JobStatus, responses=_CANCELLING | problems(404))
def delete(job_id: JobId, response: Response, services: Injected, owner: Author) -> JobStatus:
    """Cancel a job (202, its incumbent is kept as the result); 200 when it has already ended."""
    owned(services, owner, job_id)
    cancel(services, job_id)
    job = owned(services, owner, job_id)
    response.status_code = 200 if job.state.terminal else 202
    return job.status()


@router.post("/jobs/{job_id}/feedback", responses=problems(404, 408, 409))
def feedback(job_id: JobId, verdict: Feedback, services: Injected, owner: Author) -> JobStatus:
    """Tell what became of the weights."""
    job = owned(services, owner, job_id)
    after = services.store.jobs.update(job_id, lambda current: judge(current, verdict))
    if after is None:
        raise ProblemError(409, ErrorCode.NOT_FINISHED, f"the job is {job.state.value}: there is nothing to judge yet")
    return after.status()


def owned(services: Services, owner: str, job_id: str) -> Job:
    """Read the caller's job; ProblemError 404 for anybody else's, 410 for one whose record cannot be read."""
    job = services.store.jobs.get(job_id)
    if job is None and services.store.jobs.records.is_set_aside(job_id):
        detail = "the job's record could not be read and was set aside; submit the job again, or ask the operator"
        raise ProblemError(410, ErrorCode.GONE, detail, field="id")
    if job is None or job.owner != owner:
        raise ProblemError(404, ErrorCode.NOT_FOUND, "no such job", field="id")
    return job


def _expect(request: Request, wanted: str) -> None:
    wrong = require_media_type(media_type(request.headers), [wanted])
    if wrong is not None:
        raise ProblemError(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, wrong, field="Content-Type")
