"""When a child counts as hung: by looks one after the other, never by time in which the watcher slept as well."""

import pytest

from solver_service.pool.children import BEGINNING_S, PATIENCE_S, Vigil


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def look(vigil: Vigil, clock: Clock, well: bool | None, seconds: float) -> bool:
    """Look every second for so long; whether the child hung by then."""
    found = False
    for _ in range(int(seconds)):
        clock.now += 1
        found = vigil.hangs(well)
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vigil(clock: Clock) -> Vigil:
    made = Vigil(clock)
    look(made, clock, True, 3)
    return made


def test_a_child_that_is_not_well_hangs_after_a_while(vigil: Vigil, clock: Clock) -> None:
    """Not at once, and not if it recovers."""
    assert not look(vigil, clock, False, PATIENCE_S - 1)
    assert not look(vigil, clock, True, 1)
    assert not look(vigil, clock, False, PATIENCE_S)
    assert look(vigil, clock, False, 1)


def test_time_that_nobody_was_awake_in_does_not_count(vigil: Vigil, clock: Clock) -> None:
    """A frozen machine: the first look after it begins the patience anew."""
    look(vigil, clock, False, PATIENCE_S - 2)
    clock.now += 1000
    assert not look(vigil, clock, False, PATIENCE_S)
    assert look(vigil, clock, False, 1)


def test_what_cannot_be_told_does_not_count(vigil: Vigil, clock: Clock) -> None:
    """While Redis is away nothing is known of workers."""
    look(vigil, clock, False, PATIENCE_S - 2)
    assert not look(vigil, clock, None, 1000)
    assert not look(vigil, clock, False, PATIENCE_S - 1)


def test_a_child_may_take_longer_to_begin(clock: Clock) -> None:
    """A child that was never well has a minute, and no more."""
    fresh = Vigil(clock)
    assert not look(fresh, clock, False, BEGINNING_S)
    assert look(fresh, clock, False, 1)
