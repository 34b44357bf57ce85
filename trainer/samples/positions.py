"""Which positions a batch has, what their targets are, and which of them are kept."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.samples.heads import View
from trainer.samples.kinds import TargetKind
from trainer.samples.outputs import Path

BATCH = 256
Choose = Callable[[NDArray[np.int64], int, NDArray[np.bool_]], NDArray[np.int64]]
"""Which positions of a batch to keep, given its row numbers, the positions of each row, and which of all count."""


@dataclass(frozen=True, eq=False)
class Reader:
    """How outputs and targets are read as positions; a batch has `per_target` positions for each target entry.

    `shifted`: a position's target is the next one's label, as many causal language models read `labels`.
    `batch` is how many rows are run at once at most, `path` where the scores are in what the model puts out,
    `kind` what targets have in common that are read so.
    """

    view: View
    per_target: float
    ignore_index: int = -100
    shifted: bool = False
    batch: int = BATCH
    path: Path | None = None
    kind: TargetKind | None = None

    def aligned(self, targets: Tensor) -> Tensor:
        """Targets beside the positions that they belong to; the last position of a sequence has none."""
        if not self.shifted:
            return targets
        return torch.cat([targets[:, 1:], torch.full_like(targets[:, :1], self.ignore_index)], dim=1)

    def positions(self, targets: Tensor) -> int:
        """How many positions a batch with these targets has."""
        return round(targets.numel() * self.per_target)

    def counting(self, targets: Tensor) -> NDArray[np.bool_]:
        """Which positions have a target that the loss looks at [P]."""
        positions = self.positions(targets)
        if self.view.task == "regression" or targets.is_floating_point() or targets.numel() != positions:
            return np.ones(positions, dtype=bool)
        return np.asarray((targets.reshape(-1) != self.ignore_index).cpu().numpy())


def at_random(share: float, generator: np.random.Generator) -> Choose:
    """Keep this share of the positions that count, at least one of a batch if there is any."""

    def choose(numbers: NDArray[np.int64], per_row: int, counting: NDArray[np.bool_]) -> NDArray[np.int64]:
        there = np.flatnonzero(counting)
        most = max(1, round(share * len(there)))
        return there if len(there) <= most else np.sort(generator.choice(there, most, replace=False))

    return choose


def at_places(row: NDArray[np.int64], place: NDArray[np.int64]) -> Choose:
    """Keep exactly these positions."""

    def choose(numbers: NDArray[np.int64], per_row: int, counting: NDArray[np.bool_]) -> NDArray[np.int64]:
        here = np.isin(row, numbers)
        order = np.argsort(numbers)
        at = order[np.searchsorted(numbers, row[here], sorter=order)]
        return np.asarray(np.sort(at * per_row + place[here]))

    return choose
