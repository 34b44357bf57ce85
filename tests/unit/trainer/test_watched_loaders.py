"""What `watch` gives is the loader in all but its batches: what is set on it is set on the loader."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from trainer.watching import Watched, watched


class Stages:
    """A loader of one's own with a curriculum."""

    longest, epoch = 2, 0

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.longest))


def watch(loader: object) -> Watched:
    """A loader of which nothing is kept."""
    return watched(loader, lambda: None, lambda _: None)  # type: ignore[arg-type]


def test_what_is_set_reaches_the_loader() -> None:
    """A curriculum's length; what is deleted is gone there, too."""
    loader = Stages()
    seen = watch(loader)
    seen.longest = 6
    seen.epoch += 1
    assert (list(seen), loader.longest, loader.epoch, seen.epoch) == ([*range(6)], 6, 1, 1)
    del seen.longest
    assert (loader.longest, list(seen)) == (2, [0, 1])


def test_the_loaders_own_refusals_are_its() -> None:
    """A data loader that has begun lets nobody change its batch size; its collation may be another."""
    seen = watch(DataLoader(TensorDataset(torch.arange(4)), 2))
    with pytest.raises(ValueError, match="batch_size"):
        seen.batch_size = 3
    seen.collate_fn = len
    assert list(seen) == [2, 2]
