"""The JSON contracts of batches: many specs on one snapshot, sent together, waited for together, compared."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from shared.contracts import (
    Answer,
    Contract,
    InlineSnapshot,
    JobError,
    JobSpec,
    ObjectiveReport,
    SnapshotId,
    SolveStatus,
    State,
)
from shared.objectives import ObjectiveName

MOST_SPECS = 64


class BatchSpec(Contract):
    """What to solve: one snapshot, and a list of specs that leave theirs out."""

    snapshot: SnapshotId | InlineSnapshot | None = Field(
        default=None, description="Snapshot id, or a small snapshot inline; left out where a form brings the file."
    )
    specs: Annotated[list[JobSpec], Field(min_length=1, max_length=MOST_SPECS)]


class BatchJob(Answer):
    """One job of a batch: where its spec stands in the list, how it is, and what it has found."""

    id: str
    number: int
    state: State
    status: SolveStatus | None = None
    feasible: bool | None = None
    improved: bool | None = None
    objective: ObjectiveReport | None = None
    error: JobError | None = None


class BatchGroup(Answer):
    """Jobs whose values can be compared, best result first: those that minimise the same.

    `numbers` are those that go with the objective (its margin, tolerance and the like), and the price of movement.
    """

    objective: ObjectiveName
    numbers: dict[str, float] = Field(default_factory=dict)
    jobs: list[BatchJob]


class BatchStatus(Answer):
    """A batch: how many of its jobs are in which state, and all of them in groups, in the order of their first specs.

    Jobs whose records have expired are no longer in it.
    """

    id: str
    created: datetime
    snapshot: str
    ended: bool
    counts: dict[State, int]
    groups: list[BatchGroup]

    @property
    def jobs(self) -> list[BatchJob]:
        """All jobs in the order in which their specs were sent."""
        return sorted((job for group in self.groups for job in group.jobs), key=lambda job: job.number)
