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
TEMPERED_ROUNDS = 5


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


def bi_tempered(scores: Tensor, labels: Tensor, inner: float = 0.8, outer: float = 1.2) -> Tensor:
    """A logistic loss with a bounded logarithm and a softmax of heavy tails, one temperature each; Amid et al. 2019.

    With p the tempered probabilities: -log_t(p of the label) - (1 - sum of p^(2 - t)) / (2 - t), t the inner one.
    """
    likely = _tempered(scores, outer)
    own = likely.gather(1, labels[:, None]).squeeze(1).clamp(min=1e-7)
    missing = (own ** (1 - inner) - 1) / (inner - 1)
    return missing - (1 - (likely ** (2 - inner)).sum(dim=1)) / (2 - inner)


def _tempered(scores: Tensor, heat: float) -> Tensor:
    """Probabilities [N, C] that fall off as a power of the scores, for a temperature above 1."""
    centred = scores - scores.amax(dim=1, keepdim=True)
    total = torch.ones_like(centred[:, :1])
    for _ in range(TEMPERED_ROUNDS):  # the normalisation has no closed form; its fixed point is near
        total = _power(centred * total ** (1 - heat), heat).sum(dim=1, keepdim=True)
    shift = (total ** (heat - 1) - 1) / (heat - 1)  # minus the tempered logarithm of 1 / total
    return _power(centred - shift, heat)


def _power(values: Tensor, heat: float) -> Tensor:
    """The tempered exponential: 1 at 0, and for a temperature above 1 a power of -values far below."""
    return (1 + (1 - heat) * values).clamp(min=1e-12) ** (1 / (1 - heat))


def ramp(scores: Tensor, labels: Tensor) -> Tensor:
    """From 0 at a margin of 1 to 1 at a margin of -1, and level beyond: a hinge that gives the worst samples up."""
    own = scores.gather(1, labels[:, None]).squeeze(1)
    others = scores.scatter(1, labels[:, None], -math.inf).amax(dim=1)
    return (0.5 * (1 - own + others)).clamp(0.0, 1.0)


def _probability(scores: Tensor, labels: Tensor) -> Tensor:
    """Of the label [N]; never quite 0, where powers have no slope."""
    return scores.softmax(dim=1).gather(1, labels[:, None]).squeeze(1).clamp(min=1e-7)


LOSSES: dict[str, Losses] = {
    "gce": generalised,
    "sce": symmetric,
    "trimmed": trimmed,
    "tempered": bi_tempered,
    "ramp": ramp,
}
