"""What constraints ask of shares of right samples, over cells of samples that no constraint tells apart."""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from shared.constraints import ON_SAMPLES, asked_classes, floors, gap_groups
from shared.contracts import Constraint
from shared.losses import SLACK
from shared.objectives import Objective, sample_weights
from shared.snapshot import Snapshot, class_targets
from solver_service.milp.core.problem import Array, Index, Mask


class Counted(Protocol):
    """What is counted: the samples of positive weight, with their weights [n] and targets [n] or [n, h]."""

    @property
    def snapshot(self) -> Snapshot:
        """All of the samples."""

    @property
    def objective(self) -> Objective:
        """What is minimised."""

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What is asked."""

    @property
    def weights(self) -> Array:
        """All above 0."""

    @property
    def targets(self) -> NDArray[np.generic]:
        """Classes or labels."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Floors and gaps as rows over cells; `cell` [n] is each kept sample's, `total` [c] each cell's weight.

    A floor says `floors[f] . right >= least[f]`, a gap that the rates `(members[g] . right) / (members[g] . total)` of
    its groups differ by at most `most`, for the weights `right` [c] of each cell's right samples. `judged` are the
    sets of cells whose largest error rate the objective is; none where it counts all errors alike.

    A precision says that of all that is called the class `claimed[p]`, the cells `precise[p]` have the share
    `demanded[p]`, and right: `right` [c + p] holds behind the cells what weight of others each such class has.
    """

    cell: Index
    total: Array
    floors: Array
    least: Array
    gaps: tuple[tuple[Array, float], ...]
    judged: Array
    claimed: tuple[int, ...]
    precise: Array
    demanded: Array

    @property
    def cells(self) -> int:
        """c, how many there are."""
        return int(self.total.size)

    @property
    def counts(self) -> int:
        """c + p, how many weights `right` holds."""
        return self.cells + len(self.claimed)

    @classmethod
    def of(cls, problem: Counted) -> Self:
        """Gather the constraints on samples; one cell holds all samples where there is none."""
        snapshot = problem.snapshot
        kept = sample_weights(snapshot) > 0
        low: list[tuple[Mask, float]] = []
        precise: list[tuple[int, Mask, float]] = []
        gaps: list[tuple[list[Mask], float]] = []
        for constraint in problem.constraints:
            if constraint.type == "group_rate_gap":
                gaps.append(([members[kept] for members in gap_groups(constraint, snapshot)], constraint.value))
            elif constraint.type == "precision_floor":
                own = [
                    (number, class_targets(snapshot)[kept] == number) for number in asked_classes(constraint, snapshot)
                ]
                precise += [(number, members, constraint.value) for number, members in own]
            elif constraint.type in ON_SAMPLES:
                low += [(members[kept], constraint.value) for members in floors(constraint, snapshot)]
        judged = _judged(problem, kept)
        sets = [members for members, _ in low] + [members for groups, _ in gaps for members in groups] + judged
        sets += [members for _, members, _ in precise]
        cell, first = _cells(sets, int(kept.sum()))
        cells = first.size
        total = np.bincount(cell, weights=problem.weights, minlength=cells).astype(np.float64)
        rows = np.array([members[first] for members, _ in low], dtype=np.float64).reshape(len(low), cells)
        return cls(
            cell=cell,
            total=total,
            floors=rows,
            least=np.array([share for _, share in low]) * (rows @ total),
            gaps=tuple((np.array([group[first] for group in groups], dtype=np.float64), most) for groups, most in gaps),
            judged=np.array([members[first] for members in judged], dtype=np.float64).reshape(len(judged), cells),
            claimed=tuple(number for number, _, _ in precise),
            precise=np.array([own[first] for _, own, _ in precise], dtype=np.float64).reshape(len(precise), cells),
            demanded=np.array([share for _, _, share in precise]),
        )

    @property
    def asks(self) -> bool:
        """Whether any constraint asks for anything."""
        return bool(len(self.least) or self.gaps or self.claimed)

    def gather(self, weights: Array) -> Array:
        """The sum [c] of weights [n] over each cell."""
        return np.bincount(self.cell, weights, self.cells).astype(np.float64)

    def wrong(self, right: Array) -> Array:
        """The objective of a count [...] at right weights [..., c + p]: the wrong weight, or the largest error rate."""
        right = right[..., : self.cells]
        if not len(self.judged):
            return np.asarray(self.total.sum() - right.sum(axis=-1))
        return np.asarray((1 - (right @ self.judged.T) / (self.judged @ self.total)).max(axis=-1))

    def broken(self, right: Array) -> Array:
        """By how much shares fall short in sum [...], at right weights [..., c + p]; 0 where all are kept."""
        short = np.zeros(right.shape[:-1])
        if self.claimed:
            lack = self.demanded - self.precision(right)
            short = short + np.where(lack > SLACK, lack, 0.0).sum(axis=-1)
            right = right[..., : self.cells]
        if len(self.least):
            # As a share of the set's own weight: small sets lack as much as large ones do.
            size = np.maximum(self.floors @ self.total, 1e-300)
            lack = (self.least - right @ self.floors.T) / size
            short = short + np.where(lack > SLACK, lack, 0.0).sum(axis=-1)
        for members, most in self.gaps:
            # [..., groups]: the largest rate less the smallest one is the largest gap of any two.
            rates = (right @ members.T) / np.maximum(members @ self.total, 1e-300)
            apart = rates.max(axis=-1) - rates.min(axis=-1) - most
            short = short + np.where(apart > SLACK, apart, 0.0)
        return np.asarray(short)

    def precision(self, right: Array) -> Array:
        """Of what is called each claimed class the share [..., p] that is of it and right; 1 where nothing is."""
        true, false = right[..., : self.cells] @ self.precise.T, right[..., self.cells :]
        return np.where(true + false > 0, true / np.maximum(true + false, 1e-300), 1.0)


def _cells(sets: list[Mask], samples: int) -> tuple[Index, Index]:
    """The cell [n] of each sample: those in the same sets [n] share one; and one sample [c] of each.

    Samples are sorted by words of 64 memberships: there may be a thousand sets.
    """
    if not sets:
        return np.zeros(samples, dtype=np.int64), np.zeros(1, dtype=np.int64)
    packed = np.packbits(np.stack(sets, axis=1), axis=1)
    words = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(">u8").astype(np.uint64)
    _, first, cell = np.unique(words, axis=0, return_index=True, return_inverse=True)
    return cell.ravel().astype(np.int64), first.astype(np.int64)


def _judged(problem: Counted, kept: Mask) -> list[Mask]:
    """The classes, or the cells of class and group, that worst_class and worst_group look at."""
    snapshot, name = problem.snapshot, problem.objective.name
    if name not in ("worst_class", "worst_group"):
        return []
    targets = snapshot.targets.reshape(snapshot.samples)[kept]
    group = snapshot.group[kept] if name == "worst_group" and snapshot.group is not None else np.zeros(len(targets))
    pairs = np.unique(np.column_stack([targets, group]), axis=0)
    return [(targets == target) & (group == of_group) for target, of_group in pairs]
