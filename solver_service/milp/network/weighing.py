"""How much more the samples of a set count, for what constraints ask of its share: raised while it falls short.

Multipliers as in cost-sensitive reductions (Narasimhan et al., 2015). A set whose share is too small has its own
raised, one with room has it lowered again, so that no set costs the others more than its floor asks for.
"""

from collections.abc import Sequence

import numpy as np

from shared.constraints import asked_classes, called, floors, gap_groups, share
from shared.contracts import Constraint
from shared.losses import SLACK
from shared.objectives import EPSILON, class_scores, label_margins, sample_weights
from shared.snapshot import Snapshot, class_targets
from solver_service.milp.core.problem import Array, Mask

STEP, SLOWER, FASTER = 4.0, 0.6, 1.2
"""How far a multiplier goes for a share that is short by 1; what the step is times after a change of side, and after
none."""
LEAST_STEP, MOST_STEP = 0.2, 20.0
BACK = 0.7
"""How much shorter the steps back are, so that most ends keep what is asked for."""
ROOM, ONE_MORE = 1e-3, 0.5
"""Shares are aimed at this much above what is asked, or at this part of a sample more: counts go by whole samples."""
LARGEST = 10.0
"""No sample weighs more than e^10 times its own weight."""
FAR = 0.5
"""A set that has less than this part of its share begins with a weight as large as that of others."""


class Weighing:
    """A multiplier for each set of samples: the floors', those of precision (all other classes), each gap's groups."""

    def __init__(self, snapshot: Snapshot, constraints: Sequence[Constraint]) -> None:
        self._snapshot, self._weights = snapshot, sample_weights(snapshot)
        self._floors: list[tuple[float, Mask]] = []
        self._precisions: list[tuple[float, int]] = []
        self._gaps: list[tuple[float, list[Mask]]] = []
        for constraint in constraints:
            match constraint.type:
                case "min_accuracy" | "recall_floor":
                    self._floors += [(constraint.value, members) for members in floors(constraint, snapshot)]
                case "precision_floor":
                    self._precisions += [(constraint.value, number) for number in asked_classes(constraint, snapshot)]
                case "group_rate_gap":
                    self._gaps.append((constraint.value, gap_groups(constraint, snapshot)))
        members = [members for _, members in self._floors]
        members += [class_targets(snapshot) != number for _, number in self._precisions]
        members += [group for _, groups in self._gaps for group in groups]
        self._sets: Mask = np.array(members, dtype=bool).reshape(-1, snapshot.samples)
        count, first = len(self._sets), len(self._floors) + len(self._precisions)
        self._wanted = np.array([value for value, _ in (*self._floors, *self._precisions)] + [0.0] * (count - first))
        size = np.maximum(1, np.count_nonzero(self._sets[:first] & (self._weights > 0), axis=1))
        self._room = np.minimum(np.maximum(ROOM, ONE_MORE / size), 1.0 - self._wanted[:first])
        self._theta, self._step, self._before = np.zeros(count), np.full(count, STEP), np.zeros(count)
        # Only a floor never weighs a set down below its own weight: others may have to get worse. All samples together
        # weigh the same whatever they are multiplied by.
        part = (self._sets | (self._weights == 0)).all(axis=1) == 0
        self._low = np.where(np.arange(count) < first, 0.0, np.where(part, -LARGEST, 0.0))
        self._high = np.where(part, LARGEST, 0.0)

    @property
    def importance(self) -> Array:
        """What each sample [N] counts, as a multiple of its own weight; 1 on average."""
        found = np.exp(np.clip(self._theta @ self._sets, -LARGEST, LARGEST))
        return np.asarray(found / found.mean())

    @property
    def raised(self) -> bool:
        """Whether some samples count more than others, beyond their own weights."""
        return bool((self._theta != 0).any())

    def shortfall(self, outputs: Array) -> float:
        """By how much outputs [N, K] miss what is asked for, summed; 0 where they keep it."""
        lacks = self._floor_lacks(outputs)
        lacks += [float(rates.max() - rates.min()) - most for most, rates in self._rates(outputs)]
        return sum(lack for lack in lacks if lack > SLACK)

    def learn(self, outputs: Array) -> float:
        """Move the multipliers for outputs [N, K]; how far the farthest one moved."""
        lack = self._lack(outputs)
        turned = lack * self._before < 0
        self._step = np.clip(self._step * np.where(turned, SLOWER, FASTER), LEAST_STEP, MOST_STEP)
        way = self._step * lack * np.where(lack * np.where(self._theta < 0, -1, 1) < 0, BACK, 1.0)
        # What has room comes back to its own weight, and no further.
        low, high = np.where(self._theta > 0, 0.0, self._low), np.where(self._theta < 0, 0.0, self._high)
        moved = np.clip(self._theta + way, low, high)
        far = (self._theta == 0) & (lack > FAR * self._wanted) & (self._wanted > 0)
        moved = np.where(far, np.maximum(moved, self._even()), moved)
        farthest = float(np.abs(moved - self._theta).max(initial=0.0))
        self._theta, self._before = moved, lack
        return farthest

    def _even(self) -> Array:
        """The multipliers [f] under which every set would weigh as much as all samples do on average over the sets."""
        own = np.maximum(self._sets @ self._weights, 1e-300)
        return np.asarray(np.clip(np.log(self._weights.sum() / (max(2, len(own)) * own)), 0.0, LARGEST))

    def _lack(self, outputs: Array) -> Array:
        """By how much the share of each set [f] is too small (above 0) or has room (below 0).

        Of a gap both ends are drawn towards the band of its width around the middle. A group inside it has room.
        """
        wanted = [np.array(self._floor_lacks(outputs)) + self._room]
        first = len(wanted[0])
        for most, rates in self._rates(outputs):
            raised = np.sign(self._theta[first : first + len(rates)])
            away, half = (rates.max() + rates.min()) / 2 - rates, max(0.0, most / 2 - ROOM)
            beyond = np.sign(away) * np.maximum(0.0, np.abs(away) - half)
            wanted.append(np.where(beyond == 0, raised * (np.abs(away) - half), beyond))
            first += len(rates)
        return np.concatenate(wanted)

    def _floor_lacks(self, outputs: Array) -> list[float]:
        """By how much each floor's share is too small, those of precision last."""
        snapshot, weights, right = self._snapshot, self._weights, self._right(outputs)
        found = [value - share(weights, members, right) for value, members in self._floors]
        if self._precisions:
            scores, targets = class_scores(snapshot, outputs), class_targets(snapshot)
            for value, number in self._precisions:
                own = targets == number
                true = float(weights[own & right].sum())
                false = float(weights[~own & called(scores, number)].sum())
                found.append(value - (true / (true + false) if true + false > 0 else 1.0))
        return found

    def _rates(self, outputs: Array) -> list[tuple[float, Array]]:
        """Of each gap how much it may be, and the shares [groups] that are right."""
        right = self._right(outputs)
        return [(most, np.array([share(self._weights, one, right) for one in groups])) for most, groups in self._gaps]

    def _right(self, outputs: Array) -> Mask:
        return np.asarray(label_margins(self._snapshot, outputs)[:, 0] >= EPSILON)
