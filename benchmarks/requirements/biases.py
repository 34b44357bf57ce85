"""Searches over few numbers with exact counts: one bias a class, or a threshold for each group."""

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.requirements.measures import Array, Layer, Part, sets
from benchmarks.requirements.settings import Setting

Moves = list[tuple[int, NDArray[np.bool_]]]
"""Coordinates: a class's score, moved for the samples of a mask [n]."""
FIRST_PRICE, RISE = 3.0, 1.5
"""What a sample that a floor lacks costs at first, in samples, and how it rises while floors are broken."""
QUIET = 60
"""Restarts in a row that gain nothing, after which the search ends."""


class BiasSearch:
    """Coordinate search with exact counts along each coordinate, from many kicked starts.

    Along one coordinate a sample changes its call once, so that sorting the n places where that happens gives the
    counts of all floors, and of all right calls, after every step that makes a difference.
    """

    def __init__(self, setting: Setting, scores: Array, part: Part, margin: float, moves: Moves) -> None:
        self._scores, self._labels, self._moves = scores, part.labels, moves
        self._gap = setting.level - margin if setting.kind == "gap" else None
        self._members = sets(setting, part)
        self._sizes = np.maximum(self._members.sum(axis=0), 1.0)
        self._need = np.ceil((setting.level + margin) * self._sizes - 1e-9)
        self._counted = np.column_stack([self._members, np.ones(len(part))])  # the last column counts right calls
        self._price = FIRST_PRICE

    def run(self, seconds: float, rng: np.random.Generator) -> Array:
        """The best amount for each coordinate, after at most so many CPU seconds."""
        until = time.process_time() + seconds
        size = len(self._moves)
        best, worth, quiet = np.zeros(size), (np.inf, np.inf), 0
        while quiet < QUIET and (time.process_time() < until or np.isinf(worth[0])):
            start = best if rng.random() < 0.8 else np.zeros(size)
            kick = rng.normal(size=size) * rng.choice([0.1, 0.3, 1.0]) * (rng.random(size) < 0.4)
            amounts = self._descend(start + kick * (not np.isinf(worth[0])), rng, until)
            found = self._worth(amounts)
            quiet = 0 if found < worth else quiet + 1
            if found <= worth:
                best, worth = amounts, found
            if worth[0] > 0:
                self._price = min(RISE * self._price, 1e3)
        return best

    def _descend(self, amounts: Array, rng: np.random.Generator, until: float) -> Array:
        value, moved = np.inf, True
        while moved and (time.process_time() < until or np.isinf(value)):
            moved = False
            for place in rng.permutation(len(self._moves)):
                step, reached = self._along(amounts, int(place))
                if reached < value - 1e-9:
                    amounts, value, moved = amounts + step * np.eye(len(amounts))[place], reached, True
        return amounts

    def _shifted(self, amounts: Array) -> Array:
        scores = self._scores.copy()
        for (number, mask), amount in zip(self._moves, amounts, strict=True):
            scores[mask, number] += amount
        return scores

    def _worth(self, amounts: Array) -> tuple[float, float]:
        right = self._shifted(amounts).argmax(axis=1) == self._labels
        counts = right @ self._counted
        return float(self._short(counts[None, :-1])[0]), -float(counts[-1])

    def _short(self, counts: Array) -> Array:
        """How many samples floors or the gap lack [m], by the counts of right calls in each set [m, f]."""
        if self._gap is None:
            return np.asarray(np.maximum(self._need - counts, 0.0).sum(axis=1))
        rates = counts / self._sizes
        apart = rates.max(axis=1) - rates.min(axis=1) - self._gap
        return np.where(apart > 1e-12, apart * float(self._sizes.min()) + 1.0, 0.0)

    def _along(self, amounts: Array, place: int) -> tuple[float, float]:
        """The best step along one coordinate, in the middle of its stretch, and what it leads to; lower is better."""
        number, mask = self._moves[place]
        scores = self._shifted(amounts)
        own, rest = scores[:, number].copy(), scores
        rest[:, number] = -np.inf
        rival = rest.argmax(axis=1)
        switch = np.where(mask, rest[np.arange(len(own)), rival] - own, np.inf)
        before = np.where(
            mask, rival == self._labels, np.where(_beats(own, rest, rival), number, rival) == self._labels
        )
        change = ((self._labels == number).astype(float) - (rival == self._labels))[:, None] * self._counted
        order = np.argsort(switch)[: int(mask.sum())]
        places = switch[order]
        counts = before @ self._counted + np.vstack([np.zeros(change.shape[1]), np.cumsum(change[order], axis=0)])
        values = self._price * self._short(counts[:, :-1]) - counts[:, -1]
        edges = np.concatenate([[places[0] - 1.0], places, [places[-1] + 1.0]])
        width = np.diff(edges)
        values[width < 1e-7] = np.inf
        ties = np.flatnonzero(values == values.min())
        widest = int(ties[width[ties].argmax()])
        return float(edges[widest] + edges[widest + 1]) / 2, float(values[widest])


def _beats(own: Array, rest: Array, rival: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(own > rest[np.arange(len(own)), rival])


def with_biases(setting: Setting, layer: Layer, part: Part, margin: float, seconds: float, seed: int) -> Layer:
    """The layer with the best bias for every class: for two classes, a single threshold."""
    everybody = np.ones(len(part), dtype=bool)
    classes = range(1 if len(layer.bias) == 2 else 0, len(layer.bias))
    search = BiasSearch(setting, layer.scores(part), part, margin, [(number, everybody) for number in classes])
    found = search.run(seconds, np.random.default_rng(seed))
    return Layer(layer.weight, layer.bias + np.pad(found, (len(layer.bias) - len(found), 0)))


def with_group_thresholds(
    setting: Setting, layer: Layer, part: Part, margin: float, seconds: float, seed: int
) -> Layer:
    """The layer with the best threshold for each of two groups; the group is the last feature."""
    search = BiasSearch(setting, layer.scores(part), part, margin, [(1, part.group == number) for number in (0, 1)])
    zero, one = search.run(seconds, np.random.default_rng(seed))
    weight, bias = layer.weight.copy(), layer.bias.copy()
    weight[1, -1] += one - zero
    bias[1] += zero
    return Layer(weight, bias)


def taus(layer: Layer, sizes: NDArray[np.int64], grid: Array) -> Iterator[Layer]:
    """Logit adjustment: the layer with `tau log(size)` of each class taken off its bias (Menon et al. 2021)."""
    for tau in grid:
        yield Layer(layer.weight, layer.bias - tau * np.log(sizes / sizes.sum()))
