"""/v1/jobs/ID/problem: the job's model as MPS, written by a worker on request."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from shared.contracts import JobError
from shared.errors import ErrorCode
from solver_service.gateway.auth import Reader
from solver_service.gateway.documents import Responses, problems
from solver_service.gateway.download import sending
from solver_service.gateway.problems import ProblemError
from solver_service.gateway.routes.jobs import JobId, owned
from solver_service.gateway.services import Injected

router = APIRouter(prefix="/v1", tags=["jobs"])

_RESPONSES: Responses = {
    200: {"description": "The model in MPS format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    202: {"description": "A worker is writing it: ask again after `Retry-After` seconds."},
    **problems(404, 409, 410, 413, 429),
}


@router.get("/jobs/{job_id}/problem", response_class=Response, responses=_RESPONSES)
def problem(job_id: JobId, services: Injected, owner: Reader) -> Response:
    """Fetch the model that the job solves, to repeat the run elsewhere; 202 until a worker has written it."""
    job = owned(services, owner, job_id)
    models = services.store.models
    blob = services.store.blobs.model_reader(job_id)
    if blob[0]:
        headers = {"Content-Disposition": f'attachment; filename="{job_id}.mps"'}
        return sending(blob, owner, services.downloads, media_type="text/plain", headers=headers)
    if (refusal := models.refusal(job_id)) is not None:
        raise _refused(refusal)
    if not services.store.blobs.has_snapshot(owner, job.snapshot):
        raise ProblemError(410, ErrorCode.GONE, "the job's snapshot has expired; submit it again")
    services.store.limits.admit(owner)
    models.ask(job)
    return JSONResponse({"status": "a worker is writing the model"}, status_code=202, headers={"Retry-After": "1"})


def _refused(reason: JobError) -> ProblemError:
    status = {ErrorCode.TOO_LARGE: 413, ErrorCode.STORAGE_FULL: 429}.get(ErrorCode(reason.code), 409)
    return ProblemError(status, ErrorCode(reason.code), reason.detail)
