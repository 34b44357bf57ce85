"""/v1/jobs/ID/events: what happens to a job, as server-sent events."""

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from shared.contracts import JobEvent, State
from solver_service.errors import StoreUnavailableError
from solver_service.gateway.auth import Reader
from solver_service.gateway.documents import Responses, problems
from solver_service.gateway.routes.jobs import JobId, owned
from solver_service.gateway.services import Injected, Services
from solver_service.gateway.waiting import Room, Waiter, WaitingRoom
from solver_service.rules.history import state_data
from solver_service.store.events import BEGINNING

router = APIRouter(prefix="/v1", tags=["jobs"])

HEARTBEAT_S = 10.0
"""A comment is sent after so much silence, so that proxies keep the connection and a lost one is noticed."""
EVENT_ID = r"^[0-9]{1,18}-[0-9]{1,18}$"
_EXAMPLE = """id: 1732480000000-0
event: state
data: {"state": "running", "attempt": 1, "worker": "w1"}

id: 1732480001000-0
event: incumbent
data: {"t_s": 0.9, "objective": 21.0, "bound": 3.0, "gap": 0.857, "nodes": 0, "attempt": 1}

id: 1732480001000-1
event: log
data: {"message": "     0.41 s  start; objective 24, bound 0\\n", "attempt": 1, "source": "solver"}

"""
_RESPONSES: Responses = {
    200: {
        "description": "`state`, `incumbent` and `log` events; the stream ends after the job's terminal state. A `log` "
        "event has a line of the service's in `message`; with `source: solver` it has what the job's log has grown by.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    204: {"description": "The job has ended and `Last-Event-ID` was its last event: do not connect again."},
}


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses=_RESPONSES | problems(404, 410))
async def events(
    job_id: JobId,
    services: Injected,
    owner: Reader,
    room: Room,
    last: Annotated[str | None, Header(alias="Last-Event-ID", pattern=EVENT_ID)] = None,
) -> Response:
    """Follow a job; after a lost connection `Last-Event-ID` resumes where it was."""
    job = await run_in_threadpool(owned, services, owner, job_id)
    if last is not None and job.state.terminal:
        missed = await run_in_threadpool(services.store.events.after, job_id, last, most=1)
        if not missed:
            return Response(status_code=204)
    stream = _stream(services, room, owner, job_id, last or BEGINNING)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _stream(services: Services, room: WaitingRoom, owner: str, job_id: str, last: str) -> AsyncIterator[str]:
    with room.waiting_for(job_id) as waiter:
        spoke = time.monotonic()
        yield ": following\n\n"
        while True:
            try:
                # The record first: an event that ends the job is written together with it, so it cannot be missed.
                job = await run_in_threadpool(owned, services, owner, job_id)
                found = await run_in_threadpool(_after, services, job_id, last)
            except StoreUnavailableError:
                return  # the client connects again, and resumes
            if found:
                last, spoke = found[-1].id or last, time.monotonic()
                yield "".join(map(as_text, found))  # at once: each piece that is sent costs more than its text
                if _ends(found[-1]):
                    return
            if room.closing:
                return  # the client connects again, to the next gateway, and resumes
            if job.state.terminal and not found:  # its events have expired
                yield as_text(JobEvent(kind="state", data=state_data(job)))
                return
            if time.monotonic() - spoke >= HEARTBEAT_S:
                spoke = time.monotonic()
                yield ": still here\n\n"
            if not found:
                await _sleep(waiter, spoke)


def _after(services: Services, job_id: str, last: str) -> list[JobEvent]:
    """What came after an event, up to the job's end."""
    found = services.store.logs.told(job_id, services.store.events.after(job_id, last))
    end = next((number for number, event in enumerate(found, 1) if _ends(event)), None)
    return found[:end]


async def _sleep(waiter: Waiter, spoke: float) -> None:
    await waiter.changed(max(0.01, HEARTBEAT_S - (time.monotonic() - spoke)))


def as_text(event: JobEvent) -> str:
    """One event in the wire form of server-sent events; JSON has no line ends of its own."""
    number = "" if event.id is None else f"id: {event.id}\n"
    return f"{number}event: {event.kind}\ndata: {json.dumps(event.data)}\n\n"


def _ends(event: JobEvent) -> bool:
    return event.kind == "state" and State(event.data["state"]).terminal
