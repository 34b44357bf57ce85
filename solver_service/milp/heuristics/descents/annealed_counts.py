"""What an annealed descent follows: counts as sums of sigmoids, and what floors, gaps and precisions lack of them.

A sample is wrong by `sigmoid((t - margin) / width)`, its margin taken over the best of its rivals alone. With a wide
sigmoid also those pull that are wrong by far, which a ramp gives up on; a narrow one is the count.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from scipy.special import expit, logsumexp, softmax

from shared.objectives import EPSILON
from solver_service.milp.core.problem import Array, Index
from solver_service.milp.heuristics.descents.single_precision import Singles
from solver_service.milp.heuristics.walks.tally import Counted, Tally

SHARP = 0.03
"""How far the largest of several rates is rounded off."""
ROOM = 2e-3
"""Shares are aimed at this much beyond what is asked: a smoothed one is not the counted one."""
PRICE, RAISED_EVERY = 5.0, 10
"""Of an augmented Lagrangian (Hestenes 1969), and how many steps lie between two raises of its multipliers."""
ABOVE = 2.0
"""A margin counts from so many EPSILON on: rounding to float32 must not lose it."""


CLAIMED_FROM = 0.3
"""The part of a descent from which on precisions are asked for: wide sigmoids see claims everywhere."""
OWN = 0.3
"""What a class' own wrong samples count for at least beside claims of others: a class that nothing is called has a
precision of 1, and no way back."""
LEAST_LACK = 0.02
"""What a precision that is not kept lacks at least: the last sample too many counts for little."""
HALF = 0.5
"""Where a sigmoid begins to count, whatever its width."""


class Precision(NamedTuple):
    """A floor of the precision of a class."""

    number: int
    least: float


@dataclass(frozen=True, eq=False)
class AnnealedCounts:
    """The stand-in of one job, at outputs [n, h] in units of `unit`.

    `rows` [r, c] and `most` [r] say what floors and gaps ask of the wrong weight [c] of each cell of samples:
    `rows . wrong <= most`. `weights` [n] sum to 1; `targets` [n] are classes, of which a binary job has two, and `cell`
    [n] is where each sample is counted.
    """

    problem: Counted
    tally: Tally
    unit: float
    weights: Singles
    targets: np.ndarray
    cell: Index
    rows: Array
    most: Array
    precisions: tuple[Precision, ...]

    @classmethod
    def of(cls, problem: Counted, tally: Tally, unit: float) -> Self:
        """Gather what is asked."""
        rows, most = [], []
        for row, least in zip(tally.floors, tally.least, strict=True):
            size = max(float(row @ tally.total), 1e-300)
            rows.append(row / size)
            most.append(1.0 - least / size - ROOM)
        for members, value in tally.gaps:
            rates = members / np.maximum(members @ tally.total, 1e-300)[:, None]
            for one in range(len(rates)):
                for other in range(len(rates)):
                    if one != other:
                        rows.append(rates[one] - rates[other])
                        most.append(max(0.0, value - ROOM))
        snapshot = problem.snapshot
        classes = 2 if snapshot.task == "binary" else snapshot.outputs
        precisions = tuple(
            Precision(number, constraint.value)
            for constraint in problem.constraints
            if constraint.type == "precision_floor"
            for number in (range(classes) if constraint.classes is None else constraint.classes)
        )
        return cls(
            problem=problem,
            tally=tally,
            unit=unit,
            weights=(problem.weights / problem.weights.sum()).astype(np.float32),
            targets=problem.targets.astype(np.int64).reshape(len(problem.weights), -1)[:, 0],
            cell=tally.cell,
            rows=np.array(rows).reshape(-1, tally.cells),
            most=np.array(most),
            precisions=precisions,
        )

    def part(self, samples: Index) -> Self:
        """The same of some samples, that stand for all."""
        weights = self.weights[samples]
        weights = weights / weights.sum()
        return replace(self, weights=weights, targets=self.targets[samples], cell=self.cell[samples])

    @property
    def asked(self) -> int:
        """How many shares are asked for."""
        return len(self.rows) + len(self.precisions)

    def raised(self, multipliers: Array, lack: Array, part: float) -> Array:
        """The multipliers [asked] after steps that ended with this lack, in some part of a descent."""
        claims = np.arange(len(lack)) >= len(self.rows)
        lack = np.where(claims & (lack > 0), np.maximum(lack, LEAST_LACK), lack)
        return np.where(claims & (part < CLAIMED_FROM), 0.0, np.maximum(0.0, multipliers + PRICE * lack))

    def __call__(
        self, outputs: Singles, width: float, multipliers: Array, price: float
    ) -> tuple[float, Singles, Array]:
        """Value, slopes [n, h], and what each share lacks [asked]; the augmented Lagrangian of these multipliers.

        Of a precision they are those of a stand-in, and the lack is counted (proxy constraints, Cotter et al. 2019).
        """
        scores = self._scores(outputs)
        margin, rival = self._margins(scores, self.targets)
        wrong = self._beyond(-margin, width)
        lacking, cells = self._lacking(wrong)
        claims = [self._claims(scores, wrong, one, width) for one in self.precisions]
        lack = np.concatenate([lacking, [claim.lack for claim in claims]])
        # A precision has its multiplier alone: one step could take all that is called the class away.
        first = len(self.rows)
        pull = np.maximum(0.0, multipliers[:first] + price * lacking)
        value, by_margin, slope = self._objective(scores, margin, wrong, cells, width)
        value += float((pull**2).sum()) / (2 * price)
        by_wrong = (pull @ self.rows).astype(np.float32)[self.cell] * self._total * self.weights
        for claim, strength in zip(claims, multipliers[first:], strict=True):
            value += float(strength) * claim.value
            by_wrong += np.float32(strength) * claim.by_wrong
            self._spread(slope, np.float32(strength) * claim.by_lead, claim.number, claim.rival)
        self._spread(slope, by_margin - by_wrong * self._steepness(wrong, width), self.targets, rival)
        return value, slope[:, 1:] if self._binary else slope, lack

    @property
    def _total(self) -> np.float32:
        return np.float32(self.problem.weights.sum())

    @property
    def _binary(self) -> bool:
        return self.problem.snapshot.task == "binary"

    def _scores(self, outputs: Singles) -> Singles:
        return np.concatenate([np.zeros_like(outputs), outputs], axis=1) if self._binary else outputs

    def _margins(self, scores: Singles, own: np.ndarray | int) -> tuple[Singles, np.ndarray]:
        """By how much a class of each sample leads the best other one, and which that is."""
        rows, rest = np.arange(len(scores)), scores.copy()
        rest[rows, own] = -np.inf
        rival = rest.argmax(axis=1)
        return np.asarray(scores[rows, own] - rest[rows, rival]), rival

    def _beyond(self, behind: Singles, width: float) -> Singles:
        """How far each sample counts as behind, 0 to 1."""
        return np.asarray(expit((behind + np.float32(ABOVE * EPSILON / self.unit)) / np.float32(width)))

    def _steepness(self, counted: Singles, width: float) -> Singles:
        return np.asarray(counted * (1 - counted) / np.float32(width))

    def _lacking(self, wrong: Singles) -> tuple[Array, Array]:
        """What floors and gaps lack [r], and the wrong weight of each cell [c]."""
        cells = np.bincount(self.cell, self.weights * wrong, self.tally.cells).astype(np.float64) * float(self._total)
        return self.rows @ cells - self.most, cells

    def _claims(self, scores: Singles, wrong: Singles, asked: Precision, width: float) -> "_Claims":
        """What a precision lacks, and its stand-in in parts of the class: claims of others, its own that are wrong."""
        own = self.targets == asked.number
        lead, rival = self._margins(scores, asked.number)
        size = max(float(self.weights[own].sum()), 1.0 / len(own))  # there may be none
        claimed, others = self._beyond(lead, width), np.where(own, np.float32(0.0), self.weights)
        # Counted, not smoothed: of wide sigmoids' many claims hardly any is one, and they would cost the class itself.
        false = float(self.weights[~own] @ (claimed[~own] > HALF))
        right = float(self.weights[own] @ (wrong[own] < HALF))
        lack = asked.least + ROOM - (right / (right + false) if right + false > 0 else 1.0)
        by_wrong = np.where(own, np.float32(max(OWN, 1 - asked.least) / size) * self.weights, np.float32(0.0))
        # As of a softplus, not of a sigmoid: also what is claimed by far has to go, if it is too much.
        far = np.logaddexp(np.float32(0.0), (lead + np.float32(ABOVE * EPSILON / self.unit)) / np.float32(width))
        value = asked.least / size * width * float(others @ far) + float(by_wrong @ wrong)
        return _Claims(asked.number, lack, value, by_wrong, np.float32(asked.least / size) * others * claimed, rival)

    def _objective(
        self, scores: Singles, margin: Singles, wrong: Singles, cells: Array, width: float
    ) -> tuple[float, Singles, Singles]:
        """The job's own objective, smoothed, with its slopes by margins [n] and, beside these, by scores [n, h]."""
        name, slope = self.problem.objective.name, np.zeros_like(scores)
        if name == "log_loss":
            shares = softmax(np.float32(self.unit) * scores, axis=1)
            rows = np.arange(len(scores))
            value = -float(self.weights @ np.log(np.maximum(shares[rows, self.targets], np.float32(1e-30))))
            shares[rows, self.targets] -= 1
            return value, np.zeros_like(margin), np.float32(self.unit) * self.weights[:, None] * shares
        if name in ("ramp", "hinge"):
            wide = np.float32(width)
            short = (np.float32(1.0) - margin) / wide
            loss, steep = np.logaddexp(np.float32(0.0), short), -expit(short)
            if name == "ramp":
                beyond = -margin / wide
                loss, steep = loss - np.logaddexp(np.float32(0.0), beyond), steep + expit(beyond)
            return width * float(self.weights @ loss), self.weights * steep, slope
        by_wrong, value = self.weights, float(self.weights @ wrong)
        if len(self.tally.judged):
            size = self.tally.judged @ self.tally.total
            rates = (self.tally.judged @ cells) / size
            value = SHARP * float(logsumexp(rates / SHARP))
            of_cells = ((softmax(rates / SHARP) / size) @ self.tally.judged).astype(np.float32)
            by_wrong = of_cells[self.cell] * self._total * self.weights
        return value, -by_wrong * self._steepness(wrong, width), slope

    def _spread(self, slope: Singles, pull: Singles, own: np.ndarray | int, rival: np.ndarray) -> None:
        """Add slopes by margins [n] to those by scores."""
        rows = np.arange(len(slope))
        slope[rows, own] += pull
        slope[rows, rival] -= pull


class _Claims(NamedTuple):
    number: int
    lack: float
    value: float
    by_wrong: Singles
    by_lead: Singles
    rival: np.ndarray
