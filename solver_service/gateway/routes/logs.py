"""/v1/jobs/ID/log: what the solver says of a job, as text, of which a part may be asked for."""

from typing import Annotated

from fastapi import APIRouter, Header, Response

from shared.errors import ErrorCode
from solver_service.gateway.auth import Reader
from solver_service.gateway.documents import Responses, problems
from solver_service.gateway.download import NoSuchRangeError, part_of, sending, span_of
from solver_service.gateway.problems import problem_response
from solver_service.gateway.routes.jobs import JobId, owned
from solver_service.gateway.services import Injected

router = APIRouter(prefix="/v1", tags=["jobs"])

_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_RESPONSES: Responses = {
    200: {"description": "All of the log so far; empty before the first attempt.", "content": _TEXT},
    206: {"description": "The part that `Range` asks for; `Content-Range` says where it is.", "content": _TEXT},
    **problems(404, 410, 416),
}


@router.get("/jobs/{job_id}/log", response_class=Response, responses=_RESPONSES)
def log(
    job_id: JobId,
    services: Injected,
    owner: Reader,
    wanted: Annotated[
        str | None, Header(alias="Range", description="One range of bytes: `bytes=1000-`, `bytes=-2000`")
    ] = None,
    unless: Annotated[str | None, Header(alias="If-Range", include_in_schema=False)] = None,
) -> Response:
    """Fetch the log: stages with their times, the solver's own words, each attempt under its heading.

    At most 256 KiB are kept of it: a longer one loses its middle.
    """
    owned(services, owner, job_id)
    blob = services.store.blobs.log_reader(job_id)
    headers, status = {"Accept-Ranges": "bytes", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}, 200
    try:
        span = span_of(None if unless else wanted, blob[0])  # there is no tag that `If-Range` could agree with
    except NoSuchRangeError:
        detail = f"the log has {blob[0]:,} bytes so far"
        said = {"Content-Range": f"bytes */{blob[0]}"}
        return problem_response(416, ErrorCode.RANGE_NOT_SATISFIABLE, detail, field="Range", headers=said)
    if span is not None:
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{blob[0]}"
        blob, status = part_of(blob, *span), 206
    return sending(blob, owner, services.downloads, media_type="text/plain", headers=headers, status_code=status)
