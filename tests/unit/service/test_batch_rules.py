"""Batches as pure functions: ids in the order of specs, values ranked within what can be compared."""

from typing import Any

import pytest

from shared.batches import BatchStatus
from shared.contracts import JobError, JobSpec, SolveStatus, State
from solver_service.rules import batches
from solver_service.rules.jobs import Job
from tests.unit.service.test_jobs import RESULT


def spec(**given: Any) -> JobSpec:
    return JobSpec.model_validate({"objective": "ramp", "radius": 0.1, **given})


def made(*specs: JobSpec) -> tuple[batches.Batch, list[Job]]:
    return batches.create(specs, snapshot="a" * 64, owner="o", now=1_700_000_000.0)


def ended(job: Job, final: float, **given: Any) -> Job:
    objective = RESULT.objective.model_copy(update={"final": final})
    result = RESULT.model_copy(update={"objective": objective, **given})
    return job.model_copy(update={"state": State.SUCCEEDED, "result": result})


def order(status: BatchStatus) -> list[list[int]]:
    return [[job.number for job in group.jobs] for group in status.groups]


def test_ids_sort_as_specs_do() -> None:
    """All jobs of a batch are queued at once: their ids say which spec came first."""
    batch, jobs = made(*(spec(radius=0.1 * number) for number in range(1, 20)))
    assert list(batch.jobs) == sorted(batch.jobs) == [job.id for job in jobs]
    assert {job.batch for job in jobs} == {batch.id}
    assert batch.id.startswith("batch_")


def test_the_best_result_is_first() -> None:
    """By value; weights that break a constraint come after all that keep them, and what has no result last."""
    batch, jobs = made(*(spec() for _ in range(6)))
    found = [
        ended(jobs[0], 3.0),
        jobs[1],
        ended(jobs[2], 1.0, feasible=False, status=SolveStatus.TIME_LIMIT),
        ended(jobs[3], 2.0),
        jobs[4].model_copy(update={"state": State.FAILED, "error": JobError(code="solver_error", detail="it broke")}),
        ended(jobs[5], 2.0),
    ]
    status = batches.status_of(batch, found)
    assert order(status) == [[3, 5, 0, 2, 1, 4]]
    assert [job.number for job in status.jobs] == list(range(6))
    assert not status.ended
    assert {state: count for state, count in status.counts.items() if count} == {
        State.SUCCEEDED: 4,
        State.QUEUED: 1,
        State.FAILED: 1,
    }


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ({"radius": 0.1}, {"radius": 0.5, "solver": {"seed": 3}}, True),
        ({"margin": 1.0}, {"margin": 2.0}, False),
        ({"objective": "zero_one", "margin": 1.0}, {"objective": "zero_one", "margin": 2.0}, True),
        ({"objective": "ramp"}, {"objective": "hinge"}, False),
        ({}, {"constraints": [{"type": "movement_cost", "value": 1.0}]}, False),
        ({}, {"constraints": [{"type": "nonnegative", "value": 1.0}]}, True),
    ],
)
def test_what_can_be_compared_is_together(one: dict[str, Any], other: dict[str, Any], together: bool) -> None:
    """Jobs are of one group where they minimise the same, whatever region and effort they have."""
    batch, jobs = made(spec(**one), spec(**other))
    status = batches.status_of(batch, jobs)
    assert order(status) == ([[0, 1]] if together else [[0], [1]])


def test_what_has_expired_is_left_out() -> None:
    """A record that is gone takes its job out of the batch, and the batch has ended once the rest has."""
    batch, jobs = made(spec(), spec())
    status = batches.status_of(batch, [None, ended(jobs[1], 1.0)])
    assert order(status) == [[1]]
    assert status.ended
