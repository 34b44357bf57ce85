"""What a rule is worth: its accuracy, and by how much it breaks what is required, on any part of the data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.requirements.settings import Setting

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """Samples as the network's last layer sees them: features [n, d], classes [n], and groups [n] (0 where none)."""

    features: NDArray[np.float32]
    labels: Labels
    group: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Any) -> "Part":
        return Part(self.features[chosen], self.labels[chosen], self.group[chosen])

    def joined(self, other: "Part") -> "Part":
        """Both, one behind the other."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("features", "labels", "group")]
        return Part(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, eq=False)
class Layer:
    """A last layer: weight [K, d] and bias [K]. Its calls are a rule."""

    weight: Array
    bias: Array

    def scores(self, part: Part) -> Array:
        """[n, K]."""
        return np.asarray(part.features @ self.weight.T + self.bias)

    def __call__(self, part: Part) -> Array:
        """The probability [n, K] with which each class is called: 0 or 1."""
        scores = self.scores(part)
        return np.asarray(np.eye(scores.shape[1])[scores.argmax(axis=1)])


Rule = Callable[[Part], Array]
"""The probability [n, K] with which each class is called; some of fairlearn's rules draw by chance."""


def sets(setting: Setting, part: Part) -> Array:
    """The sets of samples [n, f] whose shares of right calls the requirement speaks of, as 0 and 1."""
    if setting.kind == "floor":
        return np.eye(int(part.labels.max()) + 1)[part.labels]
    return np.stack([(part.labels == 1) & (part.group == number) for number in (0, 1)], axis=1).astype(np.float64)


def shares(setting: Setting, part: Part, right: Array) -> Array:
    """The share of right calls in each set [f], `right` [n] being the probability of a right call."""
    members = sets(setting, part)
    return np.asarray(right @ members / np.maximum(members.sum(axis=0), 1.0))


def violation(setting: Setting, found: Array, margin: float = 0.0) -> float:
    """By how much shares [f] break what is required and a safety margin; 0 where they keep it."""
    if setting.kind == "gap":
        return max(0.0, float(found.max() - found.min()) - setting.level + margin)
    return max(0.0, setting.level + margin - float(found.min()))


@dataclass(frozen=True)
class Worth:
    """Accuracy and violation of a rule on a part."""

    accuracy: float
    violation: float

    @property
    def score(self) -> float:
        """What chooses among configurations: a point of violation costs a point of accuracy."""
        return self.accuracy - self.violation


def worth(setting: Setting, rule: Rule, part: Part, margin: float = 0.0) -> Worth:
    """Measure a rule on a part."""
    right = rule(part)[np.arange(len(part)), part.labels]
    return Worth(float(right.mean()), violation(setting, shares(setting, part, right), margin))
