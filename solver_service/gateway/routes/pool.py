"""The pool: its workers, its numbers, and whether it is alive and ready."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from shared.contracts import Stats, WorkerInfo, WorkerList
from shared.errors import ErrorCode
from solver_service.gateway.auth import Admin, Monitor
from solver_service.gateway.metrics import CONTENT_TYPE, render
from solver_service.gateway.problems import RETRY_AFTER_S, problem_response
from solver_service.gateway.services import Injected
from solver_service.rules.jobs import Job

router = APIRouter()


@router.get("/v1/workers", tags=["pool"])
def workers(services: Injected, _: Admin) -> WorkerList:
    """List the workers with a fresh heartbeat, and the jobs that they are at."""
    running = services.store.jobs.running()
    return WorkerList(workers=[_with_jobs(worker, running) for worker in services.store.workers.alive()])


@router.get("/v1/stats", tags=["pool"])
def stats(services: Injected, _: Admin) -> Stats:
    """Count jobs and workers."""
    counts = services.store.jobs.counts()
    alive = services.store.workers.alive()
    return Stats(
        queued=counts["queued"],
        running=counts["running"],
        states=counts,
        workers=len(alive),
        slots=sum(worker.slots for worker in alive),
    )


@router.get("/metrics", tags=["pool"], response_class=Response)
def metrics(services: Injected, _: Monitor) -> Response:
    """Show the pool's counters as Prometheus text; where keys are in use, to a key with `read` or `admin`."""
    services.traffic.hold(services.uploads.held, services.downloads.held)
    return Response(render(services.store, services.traffic.collect()), media_type=CONTENT_TYPE)


@router.get("/healthz", tags=["health"])
async def healthz() -> dict[str, str]:
    """Say that the gateway's process is alive."""
    return {"status": "alive"}


@router.get("/readyz", tags=["health"], response_model=None)
async def readyz(services: Injected) -> JSONResponse | dict[str, str]:
    """Say whether a job posted now would be solved: Redis answers and a worker has a fresh heartbeat."""
    reason = await services.readiness.why_not()
    if reason is None:
        return {"status": "ready"}
    return problem_response(503, ErrorCode.STORE_UNAVAILABLE, reason, headers={"Retry-After": RETRY_AFTER_S})


def _with_jobs(worker: WorkerInfo, running: list[Job]) -> WorkerInfo:
    return worker.model_copy(update={"jobs": [job.id for job in running if job.is_at(worker)]})
