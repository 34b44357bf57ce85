"""The whole pool at a glance, for whoever runs it: workers, queue, running jobs, last results."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared.contracts import WorkerInfo
from shared.plain import plain
from solver_service.pool.opening import columns
from solver_service.rules.jobs import Job
from solver_service.store import Store

LAST = 8
"""So many ended jobs are shown."""
SHOWN = 12
"""So many digits of an id's end name its job: ids of one hour begin alike."""
NONE = "-"


class Waiting(BaseModel):
    """The queue of one priority."""

    model_config = ConfigDict(frozen=True)

    jobs: int
    oldest_s: float


class JobLine(BaseModel):
    """What is shown of a job."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: str
    run: str | None
    objective: str
    start: float | None = None
    value: float | None = None
    gap: float | None = None
    status: str = ""
    seconds: float = 0.0
    attempt: int = 0
    worker: str | None = None


class PoolStatus(BaseModel):
    """One look at the pool."""

    model_config = ConfigDict(frozen=True)

    seen: datetime
    workers: list[WorkerInfo]
    waiting: dict[str, Waiting]
    running: list[JobLine]
    last: list[JobLine]
    finished: dict[str, int]
    stored_bytes: int


def look(store: Store) -> PoolStatus:
    """Read everything that is shown."""
    now = store.jobs.now()
    counts = store.jobs.counts()
    running = store.jobs.running()
    return PoolStatus(
        seen=datetime.fromtimestamp(now).astimezone(),
        workers=[
            worker.model_copy(update={"jobs": [job.id for job in running if job.is_at(worker)]})
            for worker in store.workers.alive()
        ],
        waiting={name: Waiting(jobs=n, oldest_s=age) for name, (n, age) in store.jobs.waiting().items()},
        running=[_line(job, now) for job in running],
        last=[_line(job, now) for job in store.jobs.recent(LAST)],
        finished={state: n for state, n in counts.items() if state not in ("queued", "running")},
        stored_bytes=store.quota.used("")[1],
    )


def _line(job: Job, now: float) -> JobLine:
    known = {
        "id": job.id,
        "state": job.state.value,
        "run": job.spec.run,
        "objective": job.spec.objective,
        "seconds": (job.finished or now) - (job.started or job.created),
        "attempt": job.attempt,
        "worker": job.worker,
        "status": job.error.code if job.error else "",
    }
    if job.result is not None:
        found = job.result.objective
        known |= {"start": found.start, "value": found.final, "gap": found.gap, "status": job.result.status.value}
    elif job.progress is not None:
        known |= {"value": job.progress.objective, "gap": job.progress.gap}
    return JobLine.model_validate(known)


def render(pool: PoolStatus) -> RenderableType:
    """Draw it for a terminal."""
    queue = ", ".join(
        f"{name} {found.jobs}" + (f" (oldest {found.oldest_s:.0f} s)" if found.jobs else "")
        for name, found in pool.waiting.items()
    )
    finished = ", ".join(f"{state} {n}" for state, n in pool.finished.items())
    heading = f"queued: {queue}\nended: {finished}\nstored: {pool.stored_bytes / 1e6:,.1f} MB"
    return Group(Text(heading), _workers(pool), _jobs("running", pool.running), _jobs("last results", pool.last))


def _workers(pool: PoolStatus) -> Table:
    table = columns("worker", "host", "slots", "at work", "solved", title=f"{len(pool.workers)} workers")
    for worker in pool.workers:
        _add(table, worker.name, worker.host, str(worker.slots), str(len(worker.jobs)), str(worker.solved))
    return table


def _jobs(title: str, lines: list[JobLine]) -> Table:
    figures = ("start", "value", "gap", "seconds", "attempt")
    table = columns("job", "run", "state", "objective", *figures, whole=("job",), title=title)
    for job in lines:
        state = f"{job.state} {job.status}".strip()
        told = [NONE if value is None else f"{value:.4g}" for value in (job.start, job.value, job.gap)]
        run = job.run or NONE
        _add(table, job.id[-SHOWN:], run, state, job.objective, *told, f"{job.seconds:.1f}", str(job.attempt))
    return table


def _add(table: Table, *cells: str) -> None:
    """Runs are named by clients, workers by whoever starts them: no markup or control sequence reaches the terminal."""
    table.add_row(*(Text(plain(cell)) for cell in cells))
