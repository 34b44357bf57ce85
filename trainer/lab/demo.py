"""The demonstration: a task where tunnels are worth it, one where they are not, and a sentence on why."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.lab.experiment import Experiment, choose_methods
from trainer.lab.loop import Settings
from trainer.lab.report import MethodSummary
from trainer.lab.tasks import Request

HYBRID, RIVAL = "hybrid", "lbfgs"
WORTH = 0.3
"""The share of the test error that has to go for a task to count as worth it."""
ALIKE = 0.1
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Scene:
    """One comparison, and why it ends as it is known to end."""

    experiment: Experiment
    what: str
    why_worth: str = ""
    why_not: str = ""


METHODS = choose_methods(["adam", "adam-renew", "restart", RIVAL, HYBRID])
SCENES = (
    Scene(
        Experiment(Request("formula"), METHODS, SEEDS, Settings()),
        what="a regression with two hidden ReLUs",
        why_worth="gradient descent ends where a ReLU is dead or badly placed, and the solver moves it",
    ),
    Scene(
        Experiment(Request("digits"), METHODS, SEEDS, Settings(epochs=60)),
        what="handwritten digits as they are",
        why_not="the last layer already fits, and there is no minimum to be tunnelled out of",
    ),
)


def verdict(scene: Scene, found: Sequence[MethodSummary]) -> str:
    """Whether the hybrid was worth it, by these figures: its mean test error against the best of the others'.

    L-BFGS has a word of its own: it is no gradient descent that anybody would train a larger network by.
    """
    errors = {summary.method: _error(summary) for summary in found}
    hybrid = errors.pop(HYBRID)
    rival = errors.pop(RIVAL)
    best = min(errors, key=lambda name: errors[name])
    gain = _less(hybrid, errors[best])
    name, figures = scene.experiment.request.name, f"test error {hybrid:.4g} against {errors[best]:.4g} of {best}"
    if gain >= WORTH and scene.why_worth:
        return (
            f"{name}, {scene.what}: WORTH IT, {figures}, {gain:.0%} less: {scene.why_worth}. It is not the restarting: "
            f"`restart` does all but the solve, `adam-renew` begins anew at each stall. {_beside(hybrid, rival)}"
        )
    if abs(hybrid - errors[best]) <= _spread(found, best):
        return f"{name}, {scene.what}: NOT WORTH IT, {figures}, within the spread of seeds: {scene.why_not}."
    return f"{name}, {scene.what}: {figures}, {abs(gain):.0%} {'less' if gain > 0 else 'MORE'}."


def _beside(hybrid: float, rival: float) -> str:
    """How L-BFGS does: said as plainly as the gain."""
    gain = _less(hybrid, rival)
    if abs(gain) <= ALIKE:
        return f"L-BFGS with restarts does as well ({rival:.4g}): on a network as small as this one, try it first."
    return f"Than L-BFGS with restarts ({rival:.4g}) it is {abs(gain):.0%} {'lower' if gain > 0 else 'higher'}."


def _less(error: float, than: float) -> float:
    return 1.0 - error / than if than > 0 else 0.0


def _error(summary: MethodSummary) -> float:
    return 1.0 - summary.test_mean if summary.metric == "accuracy" else summary.test_mean


def _spread(found: Sequence[MethodSummary], best: str) -> float:
    """The larger standard deviation over seeds of the two that are compared."""
    return max(summary.test_std for summary in found if summary.method in (HYBRID, best))
