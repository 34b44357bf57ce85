"""Writes a job's model when somebody asks for it; the worker does, because the gateway loads no solver."""

import structlog

from shared.contracts import JobError
from shared.errors import ContractError, ErrorCode
from solver_service.milp.problem_file import mps
from solver_service.store import Store
from solver_service.store.limits import LimitReachedError
from solver_service.worker.memory import affordable, bounded

log = structlog.get_logger()


def write_model(store: Store, job_id: str, *, ceiling_mb: int | None = None) -> None:
    """Store the job's model as MPS, or the reason why there is none; its memory is bounded as an attempt's is."""
    job = store.jobs.get(job_id)
    snapshot = None if job is None else store.snapshots.get(job.owner, job.snapshot)
    if job is None or snapshot is None:
        return
    try:
        with bounded(affordable(job.spec, ceiling_mb=ceiling_mb).limits.memory_mb, ceiling_mb=ceiling_mb):
            data = mps(snapshot, job.spec)
        store.models.put(job, data)
    except ContractError as error:
        store.models.refuse(job, JobError(code=error.code, detail=error.detail))
    except LimitReachedError as error:
        store.models.refuse(job, JobError(code=error.code, detail=str(error)))
    except MemoryError:
        detail = "the model takes more memory to write than limits.memory_mb allows"
        store.models.refuse(job, JobError(code=ErrorCode.TOO_LARGE, detail=detail))
    except Exception:
        log.exception("model not written", job=job_id)
        store.models.refuse(job, JobError(code=ErrorCode.SOLVER_ERROR, detail="the model could not be written"))
