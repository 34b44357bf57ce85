"""The thread beside a solve, on a store in memory: what it renews, keeps and obeys, and that it outlives everything."""

import sys
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from solver_service.errors import StoreUnavailableError
from solver_service.milp.core.control import IncumbentFound
from solver_service.milp.core.moved import Moved
from solver_service.rules import jobs
from solver_service.store import Store
from solver_service.worker.watchdog import Watchdog
from tests.conftest import wait_for
from tests.unit.service.test_jobs import running

EVERY_S = 0.01


class MemoryStore:
    """One job, its renewals and its incumbents; `away` makes every question fail."""

    def __init__(self, job: jobs.Job) -> None:
        self.jobs = self.blobs = self.logs = self
        self.job: jobs.Job = job
        self.away = False
        self.renewed = 0
        self.incumbents: list[bytes] = []
        self.text = ""

    def get(self, job_id: str) -> jobs.Job:
        if self.away:
            raise StoreUnavailableError("away")
        return self.job

    def renew(self, job_id: str, attempt: int) -> bool:
        if held := self.job.holds(attempt):
            self.renewed += 1
        return held

    def put_incumbent(self, job_id: str, attempt: int, data: bytes) -> bool:
        if held := self.job.holds(attempt):
            self.incumbents.append(data)
        return held

    def append(self, job: jobs.Job, text: str) -> bool:
        if self.away:
            raise StoreUnavailableError("away")
        self.text += text if self.job.holds(job.attempt) else ""
        return self.job.holds(job.attempt)

    def update(self, job_id: str, transition: Callable[[jobs.Job], jobs.Job | None], *, seen: jobs.Job) -> Any:
        self.job = transition(self.job) or self.job
        return self.job


def watchdog(store: MemoryStore, shutting_down: Callable[[], bool] = lambda: False) -> Watchdog:
    return Watchdog(cast(Store, store), every_s=EVERY_S, shutting_down=shutting_down)


def found(objective: float) -> IncumbentFound:
    return IncumbentFound(1.0, objective, 0.0, 1, Moved(np.zeros((1, 1), np.float32), None))


def test_it_renews_and_keeps_the_newest_incumbent() -> None:
    """The lease is renewed in every round; an incumbent is stored once, and the job is then known with its progress."""
    store = MemoryStore(running())
    with watchdog(store).over(store.job) as watched:
        watched.control.on_incumbent(found(3.0))
        wait_for(lambda: store.renewed >= 3)
    assert len(store.incumbents) == 1
    assert watched.job == store.job
    assert watched.job.progress is not None
    rounds = store.renewed
    time.sleep(5 * EVERY_S)
    assert store.renewed == rounds


def test_it_serves_one_attempt_after_another() -> None:
    """The same thread watches the next job; nothing of the first one is left."""
    store = MemoryStore(running())
    dog = watchdog(store)
    for _ in range(2):
        before = store.renewed
        with dog.over(store.job) as watched:
            wait_for(lambda before=before: store.renewed > before)  # type: ignore[misc]
        assert not watched.control.stopped
    assert store.incumbents == []


@pytest.mark.parametrize("ended", ["cancelled", "lost", "shut down"])
def test_it_stops_a_solve_that_is_not_wanted(ended: str) -> None:
    """A cancel, another attempt, and a shutdown each end the solve."""
    job = running()
    store = MemoryStore(job)
    with watchdog(store, lambda: ended == "shut down").over(job) as watched:
        if ended == "cancelled":
            store.job = job.model_copy(update={"cancel_requested": True})
        elif ended == "lost":
            store.job = job.model_copy(update={"attempt": 2})
        wait_for(lambda: watched.control.stopped)


def test_an_attempt_that_is_for_its_incumbent_alone_is_stopped_at_once() -> None:
    """A job that lost its worker while it was being cancelled is not solved any further."""
    job = running().model_copy(update={"cancel_requested": True})
    with watchdog(MemoryStore(job)).over(job) as watched:
        assert watched.control.stopped


def test_it_waits_for_a_store_that_is_away() -> None:
    """Nothing is stopped and nothing lost meanwhile."""
    store = MemoryStore(running())
    store.away = True
    with watchdog(store).over(store.job) as watched:
        watched.control.on_incumbent(found(3.0))
        time.sleep(5 * EVERY_S)
        assert not watched.control.stopped
        store.away = False
        wait_for(lambda: len(store.incumbents) == 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_replaced_with_the_next_attempt() -> None:
    """Whatever ended it: no later job goes without a watchdog."""
    deaths: list[str] = []

    def die_once() -> bool:
        if not deaths:
            deaths.append("died")
            sys.exit()
        return False

    store = MemoryStore(running())
    dog = watchdog(store, die_once)
    with dog.over(store.job):
        wait_for(lambda: bool(deaths))
    time.sleep(EVERY_S)
    with dog.over(store.job):
        wait_for(lambda: store.renewed > 0)


def test_the_log_is_kept_under_the_attempts_heading() -> None:
    """What a solve says arrives in order, at the latest when the attempt ends."""
    store = MemoryStore(running())
    with watchdog(store).over(store.job) as watched:
        watched.control.say("start", objective=3.0, bound=1.0)
        watched.control.write("words of a solver\n")
    assert store.text.startswith("attempt 1 on w")
    assert store.text.endswith(" s  start; objective 3, bound 1\nwords of a solver\n")


def test_the_log_says_why_an_attempt_was_given_up() -> None:
    """An error is the log's last line, and goes on to whoever has to deal with it."""
    store = MemoryStore(running())
    with pytest.raises(ArithmeticError), watchdog(store).over(store.job):
        raise ArithmeticError("out of numbers")
    assert store.text.endswith(" s  given up: out of numbers\n")
