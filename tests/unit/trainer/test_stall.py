"""The stall detector: when a plateau is a stall."""

import math

import pytest

from trainer.scores import improvement
from trainer.stalls.detector import StallDetector


def stalls(scores: list[float], **options: object) -> list[int]:
    detector = StallDetector(**options)  # type: ignore[arg-type]
    return [place for place, score in enumerate(scores) if detector.update(score)]


def test_patience_checks_without_improvement_are_a_stall() -> None:
    """A stall is announced at the `patience`-th check in a row that brought nothing."""
    assert stalls([5, 4, 3, 3, 3, 3], patience=3) == [5]


def test_small_gains_do_not_count() -> None:
    """Improvement below min_delta does not end a plateau, but adds up against the last best."""
    assert stalls([1.0, 0.99, 0.98, 0.97], patience=3, min_delta=0.05) == [3]
    assert stalls([1.0, 0.98, 0.96, 0.94, 0.92], patience=3, min_delta=0.05) == []


def test_higher_can_be_better() -> None:
    """With mode max, rising scores are progress and falling ones are not."""
    assert stalls([0.1, 0.2, 0.3, 0.4], patience=2, mode="max") == []
    assert stalls([0.4, 0.3, 0.2], patience=2, mode="max") == [2]


def test_cooldown_delays_the_next_stall() -> None:
    """After a stall, cooldown checks and a fresh patience go by before the next."""
    assert stalls([1.0] * 9, patience=2, cooldown=0) == [2, 4, 6, 8]
    assert stalls([1.0] * 9, patience=2, cooldown=3) == [2, 7]


def test_nan_is_no_progress() -> None:
    """A diverged run is a stall too, and a finite score after NaN is progress."""
    assert stalls([math.nan] * 3, patience=2) == [1]
    assert improvement(math.nan, 1.0, "min") == math.inf
    assert improvement(1.0, math.nan, "max") == -math.inf
    assert improvement(math.inf, math.inf, "min") == 0.0


def test_rest_starts_the_wait_again() -> None:
    """After weights were changed from outside, GD gets its full patience again."""
    detector = StallDetector(patience=2)
    detector.update(1.0)
    detector.update(1.0)
    detector.rest()
    assert not detector.update(1.0)
    assert detector.update(1.0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"patience": 0}, "patience"),
        ({"cooldown": -1}, "cooldown"),
        ({"min_delta": -1}, "min_delta"),
        ({"mode": "up"}, "mode"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, object], named: str) -> None:
    """A wrong setting is named, with what would work."""
    with pytest.raises(ValueError, match=named):
        StallDetector(**options)  # type: ignore[arg-type]


def test_a_least_gain_can_be_a_share_of_the_score() -> None:
    """With delta_mode rel, a plateau of tiny scores ends by tiny gains."""
    assert stalls([1e-6, 0.98e-6, 0.96e-6], patience=2, min_delta=0.01, delta_mode="rel") == []
    assert stalls([1e-6, 0.98e-6, 0.96e-6], patience=2, min_delta=0.01) == [2]
    with pytest.raises(ValueError, match="delta_mode"):
        StallDetector(delta_mode="percent")  # type: ignore[arg-type]


def test_scores_that_go_the_other_way_from_the_first_on_are_noticed() -> None:
    """With the wrong mode the first score stays the best, and each later one is farther from it."""
    wrong, right = StallDetector(2, 0.0, 0, "min", "abs"), StallDetector(2, 0.0, 0, "max", "abs")
    for score in (0.1, 0.5, 0.7, 0.9):
        wrong.update(score)
        right.update(score)
    assert (wrong.backwards, right.backwards) == (True, False)
