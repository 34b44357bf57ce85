"""The demonstration says of each task whether it was worth it, by its own figures."""

from trainer.lab.demo import SCENES, verdict
from trainer.lab.report import MethodSummary


def figures(metric: str, spread: float = 0.0, **tests: float) -> list[MethodSummary]:
    return [
        MethodSummary(name.replace("_", "-"), metric, (0, 1, 2), test, spread, test, 1.0, 1, 0, 0, 0, None, False)
        for name, test in tests.items()
    ]


WORTH, NOT = SCENES


def test_both_scenes_compare_with_restarts() -> None:
    """The hybrid is beside plain GD, the hybrid without solver, and beginning anew with and without L-BFGS."""
    for scene in SCENES:
        assert [method.name for method in scene.experiment.methods] == [
            "adam",
            "adam-renew",
            "restart",
            "lbfgs",
            "hybrid",
        ]


def test_a_gain_is_named_with_the_baseline_that_comes_nearest() -> None:
    """Against the best of the plain methods and restarts; L-BFGS is named beside it, ahead or not."""
    said = verdict(WORTH, figures("mse", adam=1.0, adam_renew=0.25, restart=0.9, lbfgs=0.101, hybrid=0.1))
    assert "WORTH IT, test error 0.1 against 0.25 of adam-renew, 60% less" in said
    assert "L-BFGS with restarts does as well (0.101)" in said
    said = verdict(WORTH, figures("mse", adam=1.0, adam_renew=0.25, restart=0.9, lbfgs=0.05, hybrid=0.1))
    assert "Than L-BFGS with restarts (0.05) it is 100% higher." in said


def test_no_gain_is_no_gain() -> None:
    """What lies within the spread of seeds is said not to be worth it; accuracies count by their errors."""
    said = verdict(NOT, figures("accuracy", 0.01, adam=0.95, adam_renew=0.94, restart=0.95, lbfgs=0.94, hybrid=0.955))
    assert "NOT WORTH IT, test error 0.045 against 0.05 of adam, within the spread of seeds" in said


def test_a_surprise_is_told_as_it_is() -> None:
    """If figures come out otherwise than known, the sentence says what they are, and no reason that would not fit."""
    said = verdict(WORTH, figures("mse", adam=0.05, adam_renew=0.25, restart=0.9, lbfgs=0.05, hybrid=0.1))
    assert "100% MORE" in said
    assert "WORTH" not in said
