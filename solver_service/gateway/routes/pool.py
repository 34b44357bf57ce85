"""The pool: its workers, its numbers, and whether it is alive and ready."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from shared.contracts import Stats, WorkerInfo, WorkerList
from shared.errors import ErrorCode
from solver_service.errors import StoreUnavailableError
from solver_service.gateway.auth import Owner
from solver_service.gateway.problems import RETRY_AFTER_S, problem_response
from solver_service.gateway.services import Injected, Services
from solver_service.jobs import Job

router = APIRouter()


@router.get("/v1/workers", tags=["pool"])
def workers(services: Injected, owner: Owner) -> WorkerList:
    """List the workers with a fresh heartbeat, and which of the caller's jobs they are at."""
    running = services.store.jobs.running()
    return WorkerList(workers=[_with_jobs(worker, running, owner) for worker in services.store.workers.alive()])


@router.get("/v1/stats", tags=["pool"])
def stats(services: Injected, _: Owner) -> Stats:
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


@router.get("/healthz", tags=["health"])
def healthz() -> dict[str, str]:
    """Say that the gateway's process is alive."""
    return {"status": "alive"}


@router.get("/readyz", tags=["health"], response_model=None)
def readyz(services: Injected) -> JSONResponse | dict[str, str]:
    """Say whether a job posted now would be solved: Redis answers and a worker has a fresh heartbeat."""
    reason = _not_ready(services)
    if reason is None:
        return {"status": "ready"}
    return problem_response(503, ErrorCode.STORE_UNAVAILABLE, reason, headers={"Retry-After": RETRY_AFTER_S})


def _not_ready(services: Services) -> str | None:
    try:
        services.store.ping()
        return None if services.store.workers.alive() else "no solver worker has a fresh heartbeat"
    except StoreUnavailableError:
        return "Redis does not answer"


def _with_jobs(worker: WorkerInfo, running: list[Job], owner: str) -> WorkerInfo:
    mine = [job.id for job in running if job.worker == worker.name and job.owner == owner]
    return worker.model_copy(update={"jobs": mine})
