"""Streams that never end: jobs hold what the loop trains on by now, not all that it ever saw."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from tests.unit.trainer.fakes import FakePool
from trainer import Tunneller
from trainer.samples.reservoir import Reservoir

KEEP, ROWS, BATCHES, CHECK = 200, 10, 250, 10
"""Fifty batches a phase, a check after ten of them: a sample is full after twenty."""


class Drift:
    """Numbers that say in which phase they were drawn."""

    def __init__(self) -> None:
        self.drawn = 0

    def row(self) -> tuple[Tensor, int]:
        phase, self.drawn = self.drawn // (50 * ROWS), self.drawn + 1
        return torch.tensor([float(phase), self.drawn % 7]), self.drawn % 3

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rows = [self.row() for _ in range(ROWS)]
            yield torch.stack([x for x, _ in rows]), torch.tensor([y for _, y in rows])


class Rows(IterableDataset[Any], Drift):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.row()


class Replay(Dataset[Any], Drift):
    """A buffer that is written to while the loop draws from it."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, _: int) -> Any:
        return self.row()


STREAMS: dict[str, Callable[[], Any]] = {
    "a generator": lambda: iter(Drift()),
    "an iterable": Drift,
    "an iterable data set": lambda: DataLoader(Rows(), ROWS),
    "a sampler without an end": lambda: DataLoader(made := Replay(), ROWS, sampler=RandomSampler(made, True, 10**6)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_jobs_hold_the_newest_part_of_a_stream(name: str) -> None:
    """As many rows as are kept, and no older ones, once a check has come after so many."""
    pool, model = FakePool(), nn.Linear(2, 3)
    options: dict[str, Any] = {"patience": 1, "cooldown": 0, "sync": True, "keep": KEEP, "client": pool.client()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Tunneller(model, optimizer=optimizer, validate=lambda: 0.0, mode="min", **options) as found:
        watched = iter(found.watch(STREAMS[name]()))
        for number in range(BATCHES):
            next(watched)
            if number % CHECK == CHECK - 1:
                found.step(float(number))
    for snapshot, after in ((pool.snapshots[-1], 4), (pool.snapshots[len(pool.snapshots) // 2], 1)):
        assert set(np.unique(snapshot.inputs[:, 0])) <= set(range(after, 5))


def test_a_full_sample_within_an_epoch_is_followed_by_a_new_one() -> None:
    """One that is not full goes on; the last full one stays until the new one has as many."""
    reservoir = Reservoir(keep=10)
    reservoir.begin()

    def seen(first: int, count: int) -> set[int]:
        numbers = torch.arange(first, first + count)
        reservoir.observe((numbers.float()[:, None], numbers))
        rows = reservoir.rows(100, np.random.default_rng(0))
        return {int(target) for _, batch in rows.batches(100, torch.device("cpu")) for target in batch.targets}

    assert seen(0, 5) == {*range(5)}
    reservoir.mark()
    assert seen(5, 5) == {*range(10)}
    reservoir.mark()
    assert seen(10, 5) == {*range(10)}
    reservoir.mark()
    assert seen(15, 5) == {*range(10, 20)}
