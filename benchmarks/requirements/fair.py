"""fairlearn's answers to a gap of true positive rates; an optional dependency, loaded where it is asked for."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from benchmarks.requirements.measures import Array, Layer, Part, Rule
from benchmarks.requirements.settings import Setting

ROUNDS = 30


def available() -> bool:
    """Whether fairlearn is installed."""
    try:
        import fairlearn  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


class _Scorer(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A layer as scikit-learn knows classifiers: `predict_proba` of class 1 by the two scores."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.classes_ = layer, np.array([0, 1])

    def fit(self, features: Array, labels: Array) -> "_Scorer":
        """It is trained already."""
        return self

    def predict_proba(self, features: Array) -> Array:
        """[n, 2]."""
        scores = features @ self.layer.weight.T + self.layer.bias
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def threshold_optimizer(layer: Layer, part: Part) -> Rule:
    """ThresholdOptimizer (Hardt et al. 2016): thresholds by group, partly drawn, at equal true positive rates."""
    from fairlearn.postprocessing import ThresholdOptimizer  # noqa: PLC0415

    found = ThresholdOptimizer(
        estimator=_Scorer(layer),
        constraints="true_positive_rate_parity",
        objective="accuracy_score",
        prefit=True,
        predict_method="predict_proba",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.fit(part.features, part.labels, sensitive_features=part.group)

    def rule(other: Part) -> Array:
        return np.asarray(found._pmf_predict(other.features, sensitive_features=other.group))

    return rule


def exponentiated_gradient(setting: Setting, part: Part, margin: float, l2: float) -> Rule:
    """ExponentiatedGradient (Agarwal et al. 2018): a lottery of refits of the last layer; the bound is the gap."""
    from fairlearn.reductions import ExponentiatedGradient, TruePositiveRateParity  # noqa: PLC0415

    bound = max(0.0, setting.level - margin) / 2  # of each group's rate to the rate of all
    found = ExponentiatedGradient(
        LogisticRegression(C=0.5 / (l2 * len(part)), max_iter=1000),
        TruePositiveRateParity(difference_bound=max(bound, 1e-3)),
        max_iter=ROUNDS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.fit(part.features, part.labels, sensitive_features=part.group)

    def rule(other: Part) -> Array:
        return np.asarray(found._pmf_predict(other.features))

    return rule
