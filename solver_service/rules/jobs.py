"""The job's life: states, transitions and attempts, as pure functions. None means: nothing changes."""

import hashlib
import secrets
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from shared.contracts import Feedback, JobError, JobResult, JobSpec, JobStatus, Progress, State, WorkerInfo
from shared.errors import ErrorCode
from solver_service.rules.numbers import Moment, finite

MAX_LOST = 3
"""A job whose worker was lost this often is given up."""
LAST_WORDS_S = 30.0
"""For so long a job that lost its worker while it was being cancelled waits for another one to tell its incumbent."""
_OVERFLOW = (
    "the objective overflows: its value is not a finite number; bring inputs, sample weights, margin and the like "
    "nearer to 1"
)


class Job(BaseModel):
    """A job as the service keeps it: the public record, and what only the service needs to know."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    spec: JobSpec
    snapshot: str
    created: Moment
    state: State = State.QUEUED
    queued_at: Moment
    started: Moment | None = None
    finished: Moment | None = None
    attempt: int = 0
    lost: int = 0
    worker: str | None = None
    claim: str | None = None
    cancel_requested: bool = False
    progress: Progress | None = None
    result: JobResult | None = None
    error: JobError | None = None
    feedback: Feedback | None = None
    key: str = ""
    request: str = ""
    batch: str | None = None

    def status(self) -> JobStatus:
        """The public record."""
        return JobStatus(
            id=self.id,
            state=self.state,
            run=self.spec.run,
            step=self.spec.step,
            priority=self.spec.priority,
            tags=self.spec.tags,
            snapshot=self.snapshot,
            spec=self.spec,
            created=utc(self.created),
            started=utc(self.started) if self.started else None,
            finished=utc(self.finished) if self.finished else None,
            attempt=self.attempt,
            worker=self.worker,
            progress=self.progress,
            result=self.result,
            error=self.error,
            feedback=self.feedback,
            batch=self.batch,
        )

    def holds(self, attempt: int) -> bool:
        """Whether this attempt is the one that may still speak for the job."""
        return self.state is State.RUNNING and self.attempt == attempt

    def is_at(self, worker: WorkerInfo) -> bool:
        """Whether this worker is at the job: by its id, since two may have one name."""
        if self.claim is None or not worker.id:
            return self.worker == worker.name
        return self.claim.startswith(f"{worker.id}:")


def utc(seconds: float) -> datetime:
    """A moment of Redis' clock, as answers tell it."""
    return datetime.fromtimestamp(seconds, UTC)


def new_id(now: float) -> str:
    """Make a job id: 32 hex digits that sort by time."""
    return f"{id_at(now)}{secrets.token_hex(10)}"


def id_at(now: float) -> str:
    """How the ids of this moment begin: its milliseconds, 12 hex digits."""
    return f"{max(0, int(now * 1000)):012x}"


def spec_digest(spec: JobSpec, snapshot: str) -> str:
    """Fingerprint of a submission, to compare two that carry the same idempotency key."""
    body = spec.model_copy(update={"snapshot": snapshot})
    return hashlib.sha256(body.model_dump_json().encode()).hexdigest()


def create(spec: JobSpec, *, snapshot: str, owner: str, now: float, key: str = "", request: str = "") -> Job:
    """Make a queued job; `key` and `request` are the ids under which it was submitted."""
    spec = spec.model_copy(update={"snapshot": snapshot})
    names = {"id": new_id(now), "owner": owner, "key": key, "request": request}
    return Job(**names, spec=spec, snapshot=snapshot, created=now, queued_at=now)


def claim(job: Job, *, worker: str, now: float, token: str | None = None) -> Job | None:
    """Give a queued job to a worker as its next attempt; a job past its time to live expires instead.

    Who asks again with the same token (`WORKER-ID:PROCESS-ID:TASK-ID`), because the answer was lost, has its claim.
    """
    if token is not None and job.state is State.RUNNING and job.claim == token:
        return job
    if job.state is not State.QUEUED:
        return None
    if job.attempt == 0 and overdue(job, now=now):
        return expire(job, now=now)
    started = job.started or now
    return job.model_copy(
        update={
            "state": State.RUNNING,
            "attempt": job.attempt + 1,
            "worker": worker,
            "claim": token,
            "started": started,
        }
    )


def patience_ends(job: Job) -> float | None:
    """When a queued job has waited for long enough; None for one that may wait as long as it takes."""
    if job.cancel_requested:
        return job.queued_at + LAST_WORDS_S
    return job.created + job.spec.ttl_s if job.attempt == 0 else None


def overdue(job: Job, *, now: float) -> bool:
    """Whether a queued job has waited for too long."""
    ends = patience_ends(job)
    return job.state is State.QUEUED and ends is not None and now > ends


def expire(job: Job, *, now: float) -> Job | None:
    """End an overdue job: one that never started has outlived its `ttl_s`, one that was cancelled needs no more."""
    if not overdue(job, now=now):
        return None
    state = State.CANCELLED if job.cancel_requested else State.EXPIRED
    return job.model_copy(update={"state": state, "finished": now})


def report(job: Job, progress: Progress, *, attempt: int) -> Job | None:
    """Note how far the running attempt has come, if that is a finite way."""
    return job.model_copy(update={"progress": progress}) if job.holds(attempt) and finite(progress) else None


def finish(job: Job, result: JobResult, *, attempt: int, now: float) -> Job | None:
    """Store an attempt's result; a job that was being cancelled keeps it as a cancelled job.

    A result that is not finite is none: JSON, counters and clients could not hold it.
    """
    if not job.holds(attempt):
        return None
    if not finite(result):
        return fail(job, JobError(code=ErrorCode.NOT_FINITE, detail=_OVERFLOW), attempt=attempt, now=now)
    state = State.CANCELLED if job.cancel_requested else State.SUCCEEDED
    return job.model_copy(update={"state": state, "finished": now, "result": result})


def fail(job: Job, error: JobError, *, attempt: int, now: float) -> Job | None:
    """End the attempt's job as failed, or as cancelled if that was asked for."""
    if not job.holds(attempt):
        return None
    state = State.CANCELLED if job.cancel_requested else State.FAILED
    return job.model_copy(update={"state": state, "finished": now, "error": error})


def release(job: Job, *, attempt: int, now: float) -> Job | None:
    """Put a running job back into the queue because its worker is shutting down; this uses up no attempt.

    One that is being cancelled stays: its worker ends it with what was found.
    """
    return _requeued(job, now) if job.holds(attempt) and not job.cancel_requested else None


def lose(job: Job, *, attempt: int, now: float) -> Job | None:
    """Requeue a job whose worker was lost; end it when that has happened too often.

    One that is being cancelled comes back for its incumbent alone, which the next worker makes its result.
    """
    if not job.holds(attempt):
        return None
    lost = job.lost + 1
    empty_handed = job.progress is None and job.attempt == 1
    if job.cancel_requested and (empty_handed or lost >= MAX_LOST):
        return job.model_copy(update={"state": State.CANCELLED, "finished": now, "lost": lost})
    if lost >= MAX_LOST:
        error = JobError(
            code=ErrorCode.WORKER_LOST,
            detail=f"{lost} workers were lost while solving it; try a smaller model or a lower limits.memory_mb",
        )
        return job.model_copy(update={"state": State.FAILED, "finished": now, "error": error, "lost": lost})
    return _requeued(job, now).model_copy(update={"lost": lost})


def restored(job: Job, *, now: float) -> Job:
    """A job as it comes out of a backup: nobody is at it any more, and no worker was lost."""
    return _requeued(job, now) if job.state is State.RUNNING else job


def _requeued(job: Job, now: float) -> Job:
    return job.model_copy(update={"state": State.QUEUED, "worker": None, "claim": None, "queued_at": now})


def cancel(job: Job, *, now: float) -> Job | None:
    """Cancel a queued job at once; ask the worker of a running one to stop. To ask again changes nothing."""
    if job.cancel_requested:
        return None
    if job.state is State.QUEUED:
        return job.model_copy(update={"state": State.CANCELLED, "finished": now, "cancel_requested": True})
    return job.model_copy(update={"cancel_requested": True}) if job.state is State.RUNNING else None


def judge(job: Job, feedback: Feedback) -> Job | None:
    """Attach the trainer's verdict; None where there are no weights that it could be about."""
    ended = job.state.terminal and job.result is not None
    return job.model_copy(update={"feedback": feedback}) if ended else None
