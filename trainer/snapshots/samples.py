"""Chooses which training samples a snapshot holds, and fetches them without touching the training run's own loader."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from trainer.errors import CaptureError

WRONG_SHARE, NEAR_SHARE = 0.4, 0.3
"""Shares of a snapshot for misclassified samples and for those nearest the margin; easy ones to guard get the rest."""


class _Indexed(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


Data = DataLoader[Any] | _Indexed | tuple[Tensor, Tensor]
"""What a tunneller takes samples from: a loader (only its data set is used), a data set, or (inputs, targets)."""


@dataclass(frozen=True)
class Source:
    """Random access to training samples: `fetch(indices)` gives (inputs, targets), and draws no random numbers."""

    size: int
    fetch: Callable[[Sequence[int]], tuple[Any, Tensor]]


def open_source(data: Data) -> Source:
    """Make a Source of what the user has.

    A data set whose items are random (augmentation) would draw from the global random state in the background: give
    a version without augmentation. Raises CaptureError for data without length or random access.
    """
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        inputs, targets = data
        return Source(len(inputs), lambda chosen: (inputs[list(chosen)].cpu(), targets[list(chosen)].cpu()))
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return open_source((data.tensors[0], data.tensors[1]))
    if isinstance(data, DataLoader):
        plain = isinstance(data.dataset, TensorDataset) and data.collate_fn is default_collate
        return open_source(data.dataset) if plain else _from_dataset(data.dataset, data.collate_fn)  # type: ignore[arg-type]
    return _from_dataset(data, default_collate)


def _from_dataset(dataset: Any, collate: Callable[[list[Any]], Any]) -> Source:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise CaptureError("the data has no length or no random access; give a map-style data set or (inputs, targets)")

    def fetch(chosen: Sequence[int]) -> tuple[Any, Tensor]:
        batch = collate([dataset[index] for index in chosen])
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise CaptureError("the data's items must be (input, target) pairs")
        inputs = batch[0].cpu() if isinstance(batch[0], Tensor) else batch[0]
        return inputs, torch.as_tensor(batch[1]).cpu()

    return Source(len(dataset), fetch)


@dataclass(frozen=True)
class Choice:
    """Chosen samples: positions in the pool, and each one's weight [n], or None when all weigh the same.

    The hard samples are over-represented; the weights undo that, so that a job's objective still speaks for the
    training data as a whole, and easy samples are not traded for hard ones.
    """

    positions: NDArray[np.int64]
    weights: NDArray[np.float32] | None


def choose_by_margin(
    margins: NDArray[np.float64], classes: NDArray[np.int64], samples: int, generator: np.random.Generator
) -> Choice:
    """Choose `samples` of a pool by margin [N] and class [N]: misclassified, near the margin, and easy ones.

    Within each kind classes are balanced. Where a kind has too few, the others get its share.
    """
    total = len(margins)
    if total <= samples:
        return Choice(np.arange(total), None)
    wrong = np.flatnonzero(margins <= 0)
    right = np.flatnonzero(margins > 0)
    right = right[np.argsort(margins[right], kind="stable")]
    wrong_count = min(len(wrong), max(round(WRONG_SHARE * samples), samples - len(right)))
    near_count = min(round(NEAR_SHARE * samples), samples - wrong_count)
    near, easy = np.split(right, [min(2 * near_count, len(right) - (samples - wrong_count - near_count))])
    strata = [(wrong, wrong_count), (near, near_count), (easy, samples - wrong_count - near_count)]
    return _draw(strata, classes, generator)


def choose_evenly(total: int, samples: int, generator: np.random.Generator) -> Choice:
    """Choose `samples` of `total` at random."""
    if total <= samples:
        return Choice(np.arange(total), None)
    return Choice(np.sort(generator.choice(total, samples, replace=False)), None)


def _draw(
    strata: list[tuple[NDArray[np.int64], int]], classes: NDArray[np.int64], generator: np.random.Generator
) -> Choice:
    positions, weights = [], []
    for members, count in strata:
        if count == 0:
            continue
        drawn = _balanced(members, classes[members], count, generator)
        positions.append(drawn)
        weights.append(np.full(count, len(members) / count))
    order = np.argsort(chosen := np.concatenate(positions), kind="stable")
    raw = np.concatenate(weights)[order]
    return Choice(chosen[order], (raw / raw.mean()).astype(np.float32))


def _balanced(
    members: NDArray[np.int64], classes: NDArray[np.int64], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` members, taking classes in turn: sort by rank within the class, ties at random."""
    shuffled = generator.permutation(len(members))
    ranks = np.empty(len(members), np.int64)
    for label in np.unique(classes):
        mine = shuffled[classes[shuffled] == label]
        ranks[mine] = np.arange(len(mine))
    order = np.lexsort((generator.random(len(members)), ranks))
    return members[order[:count]]
