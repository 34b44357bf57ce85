"""What a descent follows where shares of samples count: worst rates, floors and gaps, with every count smoothed.

A sample is wrong by `sigmoid((EPSILON - margin) / width + 1/2)`, its margin taken over a soft maximum of its rivals. A
rate is the mean of that over a set; the worst rate a soft maximum, and what a floor or a gap lacks has a price. All of
it is smooth, so that a quasi-Newton descent takes steps that no count and no single batch shows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from scipy.special import expit, logsumexp, softmax

from shared.objectives import EPSILON
from solver_service.milp.core.problem import MEANS, Array, Problem
from solver_service.milp.heuristics.descents.single_precision import Singles
from solver_service.milp.heuristics.walks.tally import Tally

SHARP, SHARP_GAP = 0.03, 0.003
"""How far a soft maximum of rates is rounded off: of the objective at first, and of a gap's groups."""
LACKING = 0.02
"""A set that lacks less than this share is pulled the less the less it lacks."""
ROOM = 2e-3
"""Floors and gaps are aimed at this much above what is asked: a smoothed rate is not the counted one."""
Split = Callable[[Singles], Singles]
"""From slopes [n] by margins to slopes [n, h] by outputs."""


def shares_count(tally: Tally) -> bool:
    """Whether the objective or a constraint looks at shares of some of the samples."""
    return bool(tally.asks or len(tally.judged))


@dataclass(frozen=True, eq=False)
class SmoothedShares:
    """The stand-in of one job; `unit` is what 1 is in outputs [n, h], `scale` what the objective's value is divided by.

    `side` [n] is +1 or -1 where there is one output, empty where there are classes.
    """

    problem: Problem
    tally: Tally
    unit: float
    weights: Singles
    targets: np.ndarray
    side: Singles
    scale: float = 1.0
    sharp: float = SHARP
    off: Array = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def of(cls, problem: Problem, tally: Tally, unit: float, outputs: Singles) -> Self:
        """Set it up; values are in units of the one at these outputs [n, h] where they are losses, not counts."""
        classes = problem.snapshot.task == "classification"
        targets = problem.targets.astype(np.int64).reshape(len(problem.scores), -1)[:, 0]
        side = np.zeros(0) if classes else 2.0 * targets - 1.0
        weights = (problem.weights / problem.weights.sum()).astype(np.float32)
        found = cls(problem, tally, unit, weights, targets, side.astype(np.float32))
        return replace(found, scale=found._losses(outputs, 1.0)[0] or 1.0)

    @property
    def per_value(self) -> float:
        """What a unit of the job's own objective is in this one's."""
        if len(self.tally.judged):
            return 1.0
        return 1.0 / (self.scale * (1.0 if self.problem.objective.name in MEANS else float(self.problem.weights.sum())))

    def __call__(self, outputs: Singles, width: float, price: float) -> tuple[float, Singles]:
        """Value and slopes [n, h] at outputs [n, h] in units of `unit`; `price` is for a share that lacks 1."""
        margin, split = self._margins(outputs, width)
        wrong = self._wrong(margin, width)
        total = float(self.problem.weights.sum())
        value, slope = self._of_cells(self._gathered(wrong) + self.off, price)
        pull = (slope * total).astype(np.float32)[self.tally.cell] * -wrong * (1 - wrong) / np.float32(width)
        losses, slopes = self._losses(outputs, width)
        return value + losses / self.scale, split(self.weights * pull) + slopes / np.float32(self.scale)

    def corrected(self, outputs: Singles, width: float, sharp: float) -> Self:
        """The same where smoothed counts are right at these outputs [n, h]: they are shifted by what they are off."""
        margin = self._margins(outputs, width)[0]
        counted = (self._margins(outputs, 0.0)[0] < EPSILON / self.unit).astype(np.float32)
        return replace(self, sharp=sharp, off=self._gathered(counted) - self._gathered(self._wrong(margin, width)))

    def _wrong(self, margin: Singles, width: float) -> Singles:
        return np.asarray(expit((np.float32(EPSILON / self.unit) - margin) / np.float32(width) + np.float32(0.5)))

    def _gathered(self, wrong: Singles) -> Array:
        """The wrong weight of each cell [c], as the tally counts it."""
        return self.tally.gather((self.weights * wrong).astype(np.float64)) * float(self.problem.weights.sum())

    def _of_cells(self, wrong: Array, price: float) -> tuple[float, Array]:
        """Value and slope [c] by the wrong weight [c] of each cell."""
        tally, value, slope = self.tally, 0.0, np.zeros(self.tally.cells)
        if len(tally.judged):
            size = tally.judged @ tally.total
            rates = (tally.judged @ wrong) / size
            value += self.sharp * float(logsumexp(rates / self.sharp))
            slope += (softmax(rates / self.sharp) / size) @ tally.judged
        elif self.problem.objective.name in ("zero_one", "outliers"):
            value += float(wrong.sum() / tally.total.sum())
            slope += 1.0 / tally.total.sum()
        if len(tally.least):
            size = np.maximum(tally.floors @ tally.total, 1e-300)
            lack, steep = _lacking((tally.floors @ wrong) / size - 1.0 + tally.least / size + ROOM)
            value += price * float(lack.sum())
            slope += price * (steep / size) @ tally.floors
        for members, most in tally.gaps:
            size = np.maximum(members @ tally.total, 1e-300)
            rates = (members @ wrong) / size
            apart = SHARP_GAP * float(logsumexp(rates / SHARP_GAP) + logsumexp(-rates / SHARP_GAP))
            lack, steep = _lacking(np.array([apart - max(0.0, most - ROOM)]))
            value += price * float(lack[0])
            ends = softmax(rates / SHARP_GAP) - softmax(-rates / SHARP_GAP)
            slope += price * float(steep[0]) * (ends / size) @ members
        return value, slope

    def _margins(self, outputs: Singles, width: float) -> tuple[Singles, Split]:
        """Margins [n] over a soft maximum of the rivals, and what takes slopes by them to slopes by outputs."""
        if len(self.side):
            side = self.side
            return side * outputs[:, 0], lambda pull: (side * pull)[:, None]
        rows, targets, wide = np.arange(len(outputs)), self.targets, np.float32(width)
        rest = outputs.copy()
        rest[rows, targets] = -np.inf
        top = rest.max(axis=1, keepdims=True)
        if width == 0:
            return np.asarray(outputs[rows, targets] - top[:, 0]), lambda pull: pull[:, None]
        shares = np.exp((rest - top) / wide)
        sums = shares.sum(axis=1, keepdims=True)
        shares /= sums
        margin = outputs[rows, targets] - (top + wide * np.log(sums))[:, 0]

        def split(pull: Singles) -> Singles:
            slope = -pull[:, None] * shares
            slope[rows, targets] = pull
            return np.asarray(slope)

        return np.asarray(margin), split

    def _losses(self, outputs: Singles, width: float) -> tuple[float, Singles]:
        """The mean of losses that are no counts, kinks of a ramp's and a hinge's rounded off; slopes [n, h]."""
        name = self.problem.objective.name
        if name == "log_loss":
            # Over rivals that are made one by the soft maximum of their own scores it is that of two classes.
            unit = np.float32(self.unit)
            margin, split = self._margins(outputs, 1.0 / self.unit)
            loss = _softplus(-unit * margin)
            return float(loss @ self.weights), split(-unit * self.weights * expit(-unit * margin))
        if name not in ("ramp", "hinge"):
            return 0.0, np.zeros_like(outputs)
        margin, split = self._margins(outputs, width)
        loss, slope = self._by_margins(margin, width)
        return width * float(loss @ self.weights), split(self.weights * slope)

    def _by_margins(self, margin: Singles, width: float) -> tuple[Singles, Singles]:
        """A ramp's or a hinge's losses [n], in widths, and their slopes [n] by the margins."""
        name, wide = self.problem.objective.name, np.float32(width)
        short = (np.float32(1.0) - margin) / wide
        loss, slope = _softplus(short), -expit(short)
        if name == "ramp":
            beyond = short - np.float32(1.0) / wide
            loss, slope = loss - _softplus(beyond), slope + expit(beyond)
        return np.asarray(loss), np.asarray(slope)


def _softplus(x: Singles) -> Singles:
    return np.asarray(np.logaddexp(np.float32(0.0), x))


def _lacking(lack: Array) -> tuple[Array, Array]:
    """What is lacked above 0, rounded off below LACKING, and its slope."""
    steep = np.clip(lack / LACKING, 0.0, 1.0)
    return np.where(lack < LACKING, LACKING * steep**2 / 2, lack - LACKING / 2), steep
