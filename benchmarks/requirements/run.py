"""One run: a method chooses its configuration, fits for each safety margin, and is measured on test data."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.headline.pool import Solver
from benchmarks.requirements import fair, hybrid
from benchmarks.requirements.biases import taus, with_biases, with_group_thresholds
from benchmarks.requirements.data import Case
from benchmarks.requirements.learned import Ranked, class_weights, penalised, refit
from benchmarks.requirements.measures import Layer, Part, Rule, worth
from benchmarks.requirements.settings import Setting

Record = dict[str, Any]
Fit = Callable[[Any, Part, float, float], Rule]
"""Of a configuration, the samples to fit to, a safety margin, and the CPU seconds that it may take."""
PRICES = (3e-3, 3e-2)
"""Prices of squared weights that refits try."""
TAUS = np.linspace(0.0, 3.0, 31)
HYBRID = "hybrid"
FOLDS = 2
KEPT = 1e-9
"""A violation of no more than this is none."""
UNASKED = ("as trained", "refit")
"""Methods that nobody tells of the requirement."""


@dataclass(frozen=True)
class Method:
    """How a method fits, and the configurations among which validation chooses."""

    fit: Fit
    configurations: Sequence[Any] = (None,)


def methods(setting: Setting, case: Case, seed: int, solver: Solver) -> dict[str, Method]:
    """All methods of a setting, the hybrid first: what it takes is everybody's budget."""
    search = with_group_thresholds if setting.kind == "gap" else with_biases
    found = {
        HYBRID: Method(
            lambda arm, part, margin, _: hybrid.solve(setting, case.layer, part, margin, arm, seed, solver.client),
            hybrid.ARMS,
        ),
        "as trained": Method(lambda *_: case.layer),
        "refit": Method(lambda l2, part, *_: refit(part, l2), PRICES),
        _search_name(setting): Method(
            lambda _, part, margin, seconds: search(setting, case.layer, part, margin, seconds, seed)
        ),
        f"refit, then {_search_name(setting)}": Method(
            lambda l2, part, margin, seconds: search(setting, refit(part, l2), part, margin, seconds, seed), PRICES
        ),
        "class weights": Method(
            lambda l2, part, margin, seconds: class_weights(setting, part, margin, seconds, l2), PRICES
        ),
        "penalty by GD": Method(partial(_penalty, setting, case.layer), [(None, 0.0), *((l2, l2) for l2 in PRICES)]),
    }
    if setting.kind == "floor":
        found["logit adjustment"] = Method(partial(_adjusted, setting, case))
    if setting.kind == "gap" and fair.available():
        found["ThresholdOptimizer"] = Method(lambda _, part, *__: fair.threshold_optimizer(case.layer, part))
        found["ExponentiatedGradient"] = Method(
            lambda l2, part, margin, _: fair.exponentiated_gradient(setting, part, margin, l2), PRICES
        )
    return found


def run(setting: Setting, case: Case, method: Method, budget_s: float, solver: Solver | None) -> Record:
    """Rank configurations on held-out data in two folds, then fit to all of it for each margin of the ladder.

    The budget of CPU seconds is shared alike by all fits. Test data choose nothing.
    """
    began, pool_s = time.process_time(), solver.cpu_s() if solver and solver.cpu_s else 0.0
    several = len(method.configurations) > 1
    seconds = budget_s / (len(setting.margins) + several * FOLDS * len(method.configurations))
    ranked = _ranked(setting, case, method, seconds) if several else list(method.configurations)
    fits = [_fit(setting, case.held_out, method, ranked, margin, seconds) for margin in setting.margins]
    cpu_s = time.process_time() - began + (solver.cpu_s() - pool_s if solver and solver.cpu_s else 0.0)
    tested = [worth(setting, rule, case.test) for _, rule in fits]
    fitted = [
        worth(setting, rule, case.held_out, margin) for (_, rule), margin in zip(fits, setting.margins, strict=True)
    ]
    return {
        "chosen": [repr(configuration) for configuration, _ in fits],
        "cpu_s": round(cpu_s, 2),
        "margins": list(setting.margins),
        "accuracy": [found.accuracy for found in tested],
        "violation": [found.violation for found in tested],
        "violation_when_fitted": [found.violation for found in fitted],
    }


def _ranked(setting: Setting, case: Case, method: Method, seconds: float) -> list[Any]:
    """Configurations, the best first: fitted to one half of the held-out samples and judged on the other, both ways."""
    middle = setting.margins[len(setting.margins) // 2]
    folds = ((case.selection, case.validation), (case.validation, case.selection))

    def score(configuration: Any) -> float:
        rules = [(method.fit(configuration, part, middle, seconds), other) for part, other in folds]
        return sum(worth(setting, rule, other).score for rule, other in rules)

    return sorted(method.configurations, key=score, reverse=True)


def _fit(
    setting: Setting, part: Part, method: Method, ranked: Sequence[Any], margin: float, seconds: float
) -> tuple[Any, Rule]:
    """The first configuration that keeps the requirement and the margin on the samples it was fitted to.

    The first two are tried; where neither keeps it, what breaks it less.
    """
    tried = []
    for configuration in ranked[:2]:
        rule = method.fit(configuration, part, margin, seconds)
        violation = worth(setting, rule, part, margin).violation
        tried.append((violation, configuration, rule))
        if violation <= KEPT:
            break
    _, configuration, rule = min(tried, key=lambda one: one[0])
    return configuration, rule


def _search_name(setting: Setting) -> str:
    return {"floor": "biases", "group floor": "threshold", "gap": "group thresholds"}[setting.kind]


def _adjusted(setting: Setting, case: Case, _: Any, part: Part, margin: float, __: float) -> Layer:
    best = Ranked()
    for layer in taus(case.layer, case.sizes, TAUS):
        best.look(setting, layer, part, margin)
    return best.layer


def _penalty(setting: Setting, layer: Layer, how: Any, part: Part, margin: float, seconds: float) -> Layer:
    """From the trained layer, or from a refit."""
    began = time.process_time()
    start, l2 = (layer if how[0] is None else refit(part, how[0])), how[1]
    return penalised(setting, part, margin, seconds - (time.process_time() - began), start, l2)
