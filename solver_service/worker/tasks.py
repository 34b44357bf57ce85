"""One attempt of one job: claim, decode, solve, store. Every step is safe to repeat."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, wait_exponential

from shared.contracts import JobError, JobResult, SolveStatus, State
from shared.errors import ContractError, ErrorCode
from shared.snapshot import Snapshot
from solver_service import weights
from solver_service.errors import ServiceError, StoreUnavailableError
from solver_service.milp.core.moved import Moved
from solver_service.milp.solve import Solution, solve
from solver_service.queue import hard_limit
from solver_service.rules import jobs
from solver_service.settings import Settings
from solver_service.store import Store
from solver_service.worker.board import Pulse
from solver_service.worker.memory import affordable, bounded
from solver_service.worker.watchdog import Watchdog, Watched

log = structlog.get_logger()

T = TypeVar("T")

STORE_PATIENCE_S = 120.0
RESULT_PATIENCE_S = 4 * 3600.0
"""For so long a result waits for a Redis that is full or away, unless its worker has to stop."""


@dataclass(frozen=True)
class Attempts:
    """What a worker process needs to work on jobs."""

    store: Store
    settings: Settings
    worker: str
    watchdog: Watchdog
    shutting_down: Callable[[], bool]
    pulse: Pulse

    def run(self, asked: str, *, token: str) -> None:
        """Claim the job whose turn it is and work on it; `asked` is the one that the message was sent for."""
        job = self._claimed(asked, token)
        if job is None:
            return
        names = {"job": job.id, "attempt": job.attempt, "owner": job.owner, "key": job.key, "request": job.request}
        with structlog.contextvars.bound_contextvars(**names):
            log.info("audit", what="attempt", worker=self.worker)
            self._attempt(job)

    def _claimed(self, asked: str, token: str) -> jobs.Job | None:
        """The next job that can be claimed; where none has its turn, the one that the message was sent for.

        A job whose claim succeeded, but whose answer was lost, is found by the token and not claimed twice.
        """
        claim = partial(jobs.claim, worker=self.worker, token=token)
        while True:
            turn = _patiently(self.store.turns.take)
            job_id, seen = (asked, None) if turn is None else (turn.job_id, turn.record)
            job = _patiently(partial(self._try_to_claim, job_id, seen, claim))
            if job is not None and job.state is State.RUNNING:
                return job
            if turn is None:
                return None

    def _try_to_claim(self, job_id: str, seen: bytes | None, claim: Callable[..., jobs.Job | None]) -> jobs.Job | None:
        return self.store.jobs.update(job_id, partial(claim, now=self.store.jobs.now()), seen=seen)

    def _attempt(self, job: jobs.Job) -> None:
        try:
            with self.watchdog.over(job) as watched:
                solution = self._solved(job, watched)
                # Still watched over: the lease lasts until the result is stored, however long that takes.
                self._store(watched, solution)
        except StoreUnavailableError as error:
            # Not the job's fault: its lease ends, and it is queued again once Redis is back.
            log.warning("attempt given up", reason=str(error))
        except (ContractError, ServiceError, MemoryError, ArithmeticError) as error:
            self._fail(job, error)
        except Exception as error:
            log.exception("attempt failed")
            self._fail(job, error)

    def _solved(self, job: jobs.Job, watched: Watched) -> Solution:
        ceiling_mb = self.settings.worker_memory_mb
        spec = affordable(job.spec, ceiling_mb=ceiling_mb)
        with self.pulse.within(hard_limit(job)), bounded(spec.limits.memory_mb, ceiling_mb=ceiling_mb):
            snapshot, start = _patiently(lambda: self._load(job))
            return solve(snapshot, spec, watched.control, start=start)

    def _load(self, job: jobs.Job) -> tuple[Snapshot, Moved | None]:
        snapshot = self.store.snapshots.get(job.owner, job.snapshot)
        if snapshot is None:
            raise ServiceError("the snapshot has expired; submit it again")
        found = self.store.blobs.incumbent(job.id) if job.attempt > 1 else None
        return snapshot, None if found is None else weights.decode(found)

    def _store(self, watched: Watched, solution: Solution) -> None:
        job = watched.job
        interrupted = solution.result.status is SolveStatus.INTERRUPTED
        if interrupted and self.shutting_down():
            watched.log.hand_over(now=True)
            if self._released(job, solution):
                return
        result = self._signed(job, solution.result)
        data = weights.encode(solution.moved, result)
        now, text = self.store.jobs.now, watched.log.take()
        last_words = [self.store.logs.ahead(job, text)] if text else []  # they are sent once, however often the rest
        done = _patiently(
            lambda: self.store.jobs.update(
                job.id,
                partial(jobs.finish, result=result, attempt=job.attempt, now=now()),
                result=data,
                seen=watched.job,
                ahead=last_words.pop() if last_words else None,
            ),
            patience_s=lambda: STORE_PATIENCE_S if self.shutting_down() else RESULT_PATIENCE_S,
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
        _patiently(lambda: self.store.blobs.put_incumbent(job.id, job.attempt, found))
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


def _patiently(call: Callable[[], T], *, patience_s: Callable[[], float] = lambda: STORE_PATIENCE_S) -> T:
    """Repeat a call while Redis is away or full; an accepted job and what a solve found are worth the wait."""
    retrying = Retrying(
        retry=retry_if_exception_type(StoreUnavailableError),
        wait=wait_exponential(multiplier=0.2, max=5),
        stop=lambda state: (state.seconds_since_start or 0.0) > patience_s(),
        reraise=True,
    )
    return retrying(call)
