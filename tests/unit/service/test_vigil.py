"""Judging others needs proof of one's own wakefulness: what a watcher that was frozen, paused or set may conclude."""

from hypothesis import given
from hypothesis import strategies as st

from solver_service.rules.vigil import Vigil


def vigil() -> Vigil:
    return Vigil(life_s=10, every_s=1)


def test_silence_is_judged_after_a_whole_life_of_watching() -> None:
    """Ten seconds after it was first seen, and not before; a change of its sign begins a new life."""
    watch = vigil()
    assert [watch.look(t, {"a": 1}) for t in range(10)] == [[]] * 10
    assert watch.look(10, {"a": 1}) == ["a"]
    assert watch.look(11, {"a": 2}) == []
    assert watch.look(12, {"a": 2, "b": None}) == []
    assert watch.look(21, {"a": 2}) == []  # a gap


def test_after_a_gap_everybody_has_a_whole_life() -> None:
    """A frozen machine, a paused Redis: who was silent meanwhile could not help it."""
    watch = vigil()
    for t in range(10):
        watch.look(t, {"a": 1})
    assert watch.look(25, {"a": 1}) == []
    for t in range(26, 35):
        assert watch.look(t, {"a": 1}) == []
    assert watch.look(35, {"a": 1}) == ["a"]


def test_one_who_did_not_watch_knows_nothing() -> None:
    """After `forget`, as on a first look, nobody has been silent."""
    watch = vigil()
    for t in range(11):
        watch.look(t, {"a": 1})
    watch.forget()
    assert watch.look(11, {"a": 1}) == []


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=80))
def test_nobody_is_judged_who_gave_a_sign_within_a_life(steps: list[tuple[float, bool]]) -> None:
    """However irregular the looks: between the last sign and the judgement lie ten seconds that the watcher saw."""
    watch, now, sign, since = vigil(), 0.0, 0, None
    for gap, alive in steps:
        now += gap
        sign += alive
        if since is None or alive or gap > 3:
            since = now
        judged = watch.look(now, {"a": sign})
        assert not judged or now - since >= 10


@given(st.floats(0, 100))
def test_one_who_is_silent_for_good_is_judged(begin: float) -> None:
    """With regular looks it takes a life and one look, whatever came before."""
    watch = vigil()
    watch.look(begin, {"a": 1})
    found = [watch.look(begin + 0.9 * step, {"a": 1}) for step in range(1, 14)]
    assert found[-1] == ["a"]
