"""Rivals that fit the last layer anew: class weights tuned until requirements hold, and a penalty followed by GD."""

import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks.requirements.measures import Array, Layer, Part, Worth, sets, shares, worth
from benchmarks.requirements.settings import Setting

RAISED = 4.0
"""How far a set's log-weight goes in a round, for a share of right calls that is short by 1."""
TEMPERATURE, DUAL_STEP, GD_RATE, GD_STEPS = 5.0, 0.02, 3e-3, 4000


def refit(part: Part, l2: float, weights: Array | None = None, start: Layer | None = None) -> Layer:
    """Logistic regression on the features: mean log loss + l2 |W|^2, samples weighted by `weights` [n]."""
    model = LogisticRegression(C=0.5 / (l2 * len(part)), max_iter=3000, tol=1e-5, warm_start=True)
    if start is not None and len(start.bias) > 2:
        model.coef_, model.intercept_ = start.weight.copy(), start.bias.copy()
    model.fit(part.features.astype(np.float64), part.labels, sample_weight=weights)
    if len(model.classes_) == 2:  # one logit: half of it to each class
        halves = np.array([[-0.5], [0.5]])
        return Layer(halves @ model.coef_, (halves @ model.intercept_[:, None])[:, 0])
    return Layer(model.coef_.astype(np.float64), model.intercept_.astype(np.float64))


def class_weights(setting: Setting, part: Part, margin: float, seconds: float, l2: float) -> Layer:
    """Refits with the weights of the sets raised that fall short, until the requirement holds or the time is up.

    Of a gap the worse set is raised and the better one lowered. The best refit on `part` is returned.
    """
    until = time.process_time() + seconds
    members = sets(setting, part)
    logs, best, layer = np.zeros(members.shape[1]), Ranked(), None
    while True:
        layer = refit(part, l2, np.exp(members @ logs), layer)
        found = best.look(setting, layer, part, margin)
        if found.violation == 0 or time.process_time() >= until:
            return best.layer
        logs = logs + RAISED * _short(setting, layer, part, margin)
        logs -= logs.mean() if setting.kind == "floor" else 0.0


def penalised(setting: Setting, part: Part, margin: float, seconds: float, start: Layer, l2: float) -> Layer:
    """Lagrangian GD (Cotter et al. 2019): soft counts in the gradient, exact counts for the multipliers.

    Minimises log loss + l2 |W|^2 + sum_f lambda_f (short of soft share f) by Adam from `start`, lambda rising with what
    the exact shares lack. The best step on `part` is returned.
    """
    until = time.process_time() + seconds
    inputs, labels = torch.from_numpy(part.features), torch.from_numpy(part.labels)
    members = torch.from_numpy(sets(setting, part)).float()
    sizes = members.sum(dim=0).clamp(min=1.0)
    weight = torch.tensor(start.weight, dtype=torch.float32, requires_grad=True)
    bias = torch.tensor(start.bias, dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=GD_RATE)
    multipliers, best = np.zeros(members.shape[1]), Ranked()
    for _ in range(GD_STEPS):
        layer = Layer(weight.detach().double().numpy().copy(), bias.detach().double().numpy().copy())
        best.look(setting, layer, part, margin)
        if time.process_time() >= until:
            break
        moved = multipliers + DUAL_STEP * _short(setting, layer, part, margin, signed=True)
        multipliers = moved if setting.kind == "gap" else np.maximum(moved, 0.0)
        scores = inputs @ weight.T + bias
        own = scores.gather(1, labels[:, None])[:, 0]
        rival = scores.scatter(1, labels[:, None], -torch.inf).max(dim=1).values
        soft = (torch.sigmoid(TEMPERATURE * (own - rival)) @ members) / sizes
        loss = nn.functional.cross_entropy(scores, labels) + l2 * weight.square().sum()
        loss = loss - (torch.from_numpy(multipliers).float() * soft).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return best.layer


class Ranked:
    """The best layer so far on the samples that it was fitted to: what is required first, then accuracy."""

    def __init__(self) -> None:
        self._layer: Layer | None = None
        self._rank = (np.inf, 0.0)

    @property
    def layer(self) -> Layer:
        """The best that was looked at."""
        assert self._layer is not None
        return self._layer

    def look(self, setting: Setting, layer: Layer, part: Part, margin: float) -> Worth:
        """Keep it if it is better."""
        found = worth(setting, layer, part, margin)
        rank = (found.violation, -found.accuracy)
        if rank < self._rank:
            self._layer, self._rank = layer, rank
        return found


def _short(setting: Setting, layer: Layer, part: Part, margin: float, *, signed: bool = False) -> Array:
    """By how much each set's share [f] is too small; `signed`: below 0 where there is room."""
    right = (layer.scores(part).argmax(axis=1) == part.labels).astype(float)
    found = shares(setting, part, right)
    if setting.kind == "gap":
        middle, half = (found.max() + found.min()) / 2, max(0.0, setting.level - margin) / 2
        return np.where(found < middle, np.maximum(middle - half - found, 0.0), -np.maximum(found - middle - half, 0.0))
    lack = setting.level + margin - found
    return lack if signed else np.maximum(lack, 0.0)
