"""What happened to a job, told as events: a pure reading of each transition, so that no change goes untold."""

from dataclasses import dataclass
from typing import Any, Self

from shared.contracts import EventKind, JobEvent, State
from solver_service.rules.jobs import Job


@dataclass(frozen=True)
class Happening:
    """One event before it is stored: its kind and its JSON data."""

    kind: EventKind
    data: dict[str, Any]


@dataclass(frozen=True)
class Written:
    """Text that an attempt has added to its job's log: stored as its place in there, and told with the text itself.

    Bytes from `begin` up to `end`, of all that was ever written.
    """

    attempt: int
    begin: int
    end: int

    @classmethod
    def of(cls, event: JobEvent) -> Self | None:
        """What a stored event says was written; None for any other event."""
        if event.kind != "log" or "begin" not in event.data:
            return None
        return cls(event.data["attempt"], event.data["begin"], event.data["end"])

    def event(self, number: str | None, text: str) -> JobEvent:
        """The event as it is told; `source` tells it from the service's own lines."""
        return JobEvent(id=number, kind="log", data={"message": text, "attempt": self.attempt, "source": "solver"})


def happenings(before: Job | None, after: Job) -> list[Happening]:
    """Tell a transition: log lines first, then the incumbent, then the state; nothing for what nobody watches."""
    told = [Happening("log", {"message": line, "attempt": after.attempt}) for line in _lines(before, after)]
    if after.progress is not None and (before is None or after.progress != before.progress):
        told.append(Happening("incumbent", {**after.progress.model_dump(mode="json"), "attempt": after.attempt}))
    if before is None or after.state is not before.state:
        told.append(Happening("state", state_data(after)))
    return told


def state_data(job: Job) -> dict[str, Any]:
    """The data of a `state` event: where the job is now, and how it ended once it has."""
    data: dict[str, Any] = {"state": job.state.value, "attempt": job.attempt, "worker": job.worker}
    if job.error is not None:
        data["error"] = job.error.model_dump(mode="json")
    if job.result is not None:
        data["status"] = job.result.status.value
        data["objective"] = job.result.objective.model_dump(mode="json")
    return data


def _lines(before: Job | None, after: Job) -> list[str]:
    if before is None:
        return []
    lines = []
    if after.lost > before.lost:
        lines.append(f"worker {before.worker} was lost ({after.lost} so far)")
    elif before.state is State.RUNNING and after.state is State.QUEUED:
        lines.append(f"worker {before.worker} is shutting down; the job and its incumbent are handed on")
    if after.cancel_requested and not before.cancel_requested and after.state is State.RUNNING:
        lines.append("cancelling: the solver is being interrupted, its incumbent becomes the result")
    if after.result is not None and before.result is None:
        lines.extend(after.result.notes)
    return lines
