"""Losses that wrong labels mislead less than cross-entropy: what a practitioner would try before asking a solver."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Losses = Callable[[Tensor, Tensor], Tensor]
"""Scores [N, C] and labels [N] to one loss a sample [N]."""
SURE = 1e-4
"""What the reverse cross-entropy takes for a probability of 0; its logarithm has to be finite."""
KEPT = 0.7
"""The share of a batch that trimming keeps."""


def generalised(scores: Tensor, labels: Tensor, power: float = 0.7) -> Tensor:
    """(1 - p^q) / q: between cross-entropy (q to 0) and absolute error (q = 1); Zhang and Sabuncu 2018."""
    return (1 - _probability(scores, labels) ** power) / power


def symmetric(scores: Tensor, labels: Tensor, forward: float = 0.1) -> Tensor:
    """Cross-entropy, weighted down, and the same with labels and predictions exchanged; Wang et al. 2019."""
    backward = -math.log(SURE) * (1 - _probability(scores, labels))
    return forward * nn.functional.cross_entropy(scores, labels, reduction="none") + backward


def trimmed(scores: Tensor, labels: Tensor, kept: float = KEPT) -> Tensor:
    """Cross-entropy of the samples of smallest loss, the others' being 0; Han et al. 2018, with one network."""
    losses = nn.functional.cross_entropy(scores, labels, reduction="none")
    count = max(1, round(kept * len(losses)))
    chosen = torch.zeros_like(losses)
    chosen[losses.detach().topk(count, largest=False).indices] = len(losses) / count
    return losses * chosen


def ramp(scores: Tensor, labels: Tensor) -> Tensor:
    """From 0 at a margin of 1 to 1 at a margin of -1, and level beyond: a hinge that gives the worst samples up."""
    own = scores.gather(1, labels[:, None]).squeeze(1)
    others = scores.scatter(1, labels[:, None], -math.inf).amax(dim=1)
    return (0.5 * (1 - own + others)).clamp(0.0, 1.0)


def _probability(scores: Tensor, labels: Tensor) -> Tensor:
    """Of the label [N]; never quite 0, where powers have no slope."""
    return scores.softmax(dim=1).gather(1, labels[:, None]).squeeze(1).clamp(min=1e-7)


LOSSES: dict[str, Losses] = {"gce": generalised, "sce": symmetric, "trimmed": trimmed, "ramp": ramp}
