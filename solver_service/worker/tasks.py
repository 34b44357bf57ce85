"""One attempt of one job: claim, decode, solve, store. Every step is safe to repeat."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from shared.contracts import JobError, JobResult, SolveStatus, State
from shared.errors import ContractError, ErrorCode
from shared.snapshot import Snapshot
from solver_service import weights
from solver_service.errors import ServiceError, StoreUnavailableError
from solver_service.milp.core.moved import Moved
from solver_service.milp.solve import Solution, solve
from solver_service.rules import jobs
from solver_service.settings import Settings
from solver_service.store import Store
from solver_service.worker.memory import affordable, bounded
from solver_service.worker.watchdog import Watchdog

log = structlog.get_logger()

T = TypeVar("T")

STORE_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Attempts:
    """What a worker process needs to work on jobs."""

    store: Store
    settings: Settings
    worker: str
    watchdog: Watchdog
    shutting_down: Callable[[], bool]

    def run(self, job_id: str) -> None:
        """Claim the job and work on it; a job that is not queued any more is left alone."""
        now = self.store.jobs.now
        claim = partial(jobs.claim, worker=self.worker)
        job = _patiently(lambda: self.store.jobs.update(job_id, partial(claim, now=now())))
        if job is None or job.state is not State.RUNNING:
            return
        names = {"job": job.id, "attempt": job.attempt, "owner": job.owner, "key": job.key, "request": job.request}
        with structlog.contextvars.bound_contextvars(**names):
            log.info("audit", what="attempt", worker=self.worker)
            self._attempt(job)

    def _attempt(self, job: jobs.Job) -> None:
        try:
            ceiling_mb = self.settings.worker_memory_mb
            spec = affordable(job.spec, ceiling_mb=ceiling_mb)
            bound = bounded(spec.limits.memory_mb, ceiling_mb=ceiling_mb)
            with self.watchdog.over(job) as watched, bound:
                snapshot, start = _patiently(lambda: self._load(job))
                solution = solve(snapshot, spec, watched.control, start=start)
        except StoreUnavailableError as error:
            # Not the job's fault: its lease ends, and it is queued again once Redis is back.
            log.warning("attempt given up", reason=str(error))
        except (ContractError, ServiceError, MemoryError, ArithmeticError) as error:
            self._fail(job, error)
        except Exception as error:
            log.exception("attempt failed")
            self._fail(job, error)
        else:
            self._store(watched.job, solution)

    def _load(self, job: jobs.Job) -> tuple[Snapshot, Moved | None]:
        snapshot = self.store.snapshots.get(job.owner, job.snapshot)
        if snapshot is None:
            raise ServiceError("the snapshot has expired; submit it again")
        found = self.store.blobs.incumbent(job.id) if job.attempt > 1 else None
        return snapshot, None if found is None else weights.decode(found)

    def _store(self, job: jobs.Job, solution: Solution) -> None:
        interrupted = solution.result.status is SolveStatus.INTERRUPTED
        if interrupted and self.shutting_down() and self._released(job, solution):
            return
        result = self._signed(job, solution.result)
        data = weights.encode(solution.moved, result)
        now = self.store.jobs.now
        done = _patiently(
            lambda: self.store.jobs.update(
                job.id, partial(jobs.finish, result=result, attempt=job.attempt, now=now()), result=data, seen=job
            )
        )
        if done is None:
            log.warning("result dropped: the job is no longer this attempt's")
        else:
            log.info("job done", state=done.state.value, status=result.status.value, final=result.objective.final)

    def _signed(self, job: jobs.Job, result: JobResult) -> JobResult:
        queued_s = max(0.0, (job.started or job.created) - job.created)
        timings = result.timings.model_copy(update={"queued_s": queued_s})
        return result.model_copy(update={"worker": self.worker, "attempt": job.attempt, "timings": timings})

    def _released(self, job: jobs.Job, solution: Solution) -> bool:
        """Hand the job and its incumbent to another worker, because this one is shutting down; False if it may not."""
        found = weights.encode(solution.moved)
        _patiently(lambda: self.store.blobs.put_incumbent(job.id, found))
        now = self.store.jobs.now
        back = _patiently(lambda: self.store.jobs.update(job.id, partial(jobs.release, attempt=job.attempt, now=now())))
        if back is not None:
            log.info("job released")
        return back is not None

    def _fail(self, job: jobs.Job, error: Exception) -> None:
        code = error.code if isinstance(error, ContractError) else ErrorCode.SOLVER_ERROR
        reason = JobError(code=code, detail=str(error) or type(error).__name__)
        log.error("job failed", reason=reason.detail)
        now = self.store.jobs.now
        _patiently(
            lambda: self.store.jobs.update(job.id, partial(jobs.fail, error=reason, attempt=job.attempt, now=now()))
        )


def _patiently(call: Callable[[], T]) -> T:
    """Repeat a call while Redis is away; an accepted job and what a solve found are worth the wait."""
    retrying = Retrying(
        retry=retry_if_exception_type(StoreUnavailableError),
        wait=wait_exponential(multiplier=0.2, max=5),
        stop=stop_after_delay(STORE_PATIENCE_S),
        reraise=True,
    )
    return retrying(call)
