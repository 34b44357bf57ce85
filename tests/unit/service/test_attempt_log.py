"""An attempt's log on its way: handed over once a second, bounded, and never in anybody's way."""

from typing import cast

from solver_service.errors import StoreUnavailableError
from solver_service.rules import jobs
from solver_service.store import Store
from solver_service.worker.log import EVERY_S, LEFT_OUT, LOST, MOST_WAITING, AttemptLog
from tests.unit.service.test_jobs import running

HEADING = "attempt 1 on w1\n"


class MemoryLogs:
    """What was appended; `broken` is raised instead."""

    def __init__(self) -> None:
        self.logs = self
        self.texts: list[str] = []
        self.broken: Exception | None = None

    def append(self, job: jobs.Job, text: str) -> bool:
        if self.broken is not None:
            raise self.broken
        self.texts.append(text)
        return True


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[AttemptLog, MemoryLogs, Clock]:
    store, clock = MemoryLogs(), Clock()
    job = running().model_copy(update={"worker": "w1"})
    return AttemptLog(cast(Store, store), job, clock), store, clock


def test_text_is_handed_over_once_a_second() -> None:
    """However often it is asked, at most one write a second, with all that came meanwhile; the end does not wait."""
    log, store, clock = made()
    for _ in range(5):
        log.write("a line\n")
        log.hand_over()
    assert store.texts == []
    clock.now += EVERY_S
    log.hand_over()
    log.write("another\n")
    log.hand_over()
    assert store.texts == [HEADING + 5 * "a line\n"]
    log.hand_over(now=True)
    log.hand_over(now=True)
    assert store.texts[1:] == ["another\n"]


def test_what_comes_too_fast_is_left_out_and_said_so() -> None:
    """Memory stays bounded, and the reader knows that something is missing."""
    log, store, _ = made()
    for _ in range(MOST_WAITING // 50 + 1000):
        log.write(49 * "x" + "\n")
    log.hand_over(now=True)
    assert len(store.texts[0]) < MOST_WAITING + 200
    assert store.texts[0].endswith(LEFT_OUT)
    assert store.texts[0].count(LEFT_OUT) == 1


def test_what_redis_does_not_take_is_dropped_and_said_so() -> None:
    """A store that is away, or breaks in any other way, ends nothing; the next text tells of the gap."""
    log, store, _ = made()
    for error in (StoreUnavailableError("away"), KeyError("a mistake")):
        store.broken = error
        log.write("lost\n")
        log.hand_over(now=True)
    store.broken = None
    log.write("kept\n")
    log.hand_over(now=True)
    assert store.texts == [LOST + "kept\n"]
