"""Writes a job's model when somebody asks for it; the worker does, because the gateway loads no solver."""

import structlog

from shared.contracts import JobError
from shared.errors import ContractError, ErrorCode
from solver_service.milp.problem_file import mps
from solver_service.store import Store

log = structlog.get_logger()


def write_model(store: Store, job_id: str) -> None:
    """Store the job's model as MPS, or the reason why there is none."""
    job = store.jobs.get(job_id)
    snapshot = None if job is None else store.snapshots.get(job.owner, job.snapshot)
    if job is None or snapshot is None:
        return
    try:
        store.models.put(job_id, mps(snapshot, job.spec))
    except ContractError as error:
        store.models.refuse(job_id, JobError(code=error.code, detail=error.detail))
    except Exception:
        log.exception("model not written", job=job_id)
        store.models.refuse(job_id, JobError(code=ErrorCode.SOLVER_ERROR, detail="the model could not be written"))
