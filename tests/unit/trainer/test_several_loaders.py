"""Loops over several watched loaders: what is kept is of all of them, however they stand to one another."""

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainer.fakes import FakePool
from trainer import Tunneller

Batch = tuple[Tensor, Tensor]
Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
OUTER, INNER = 60, 40


def loader(first: int, count: int) -> list[Batch]:
    """Batches of ten rows, each a number of its own."""
    numbers = torch.arange(first, first + count).float()
    return [(part[:, None], part.long() % 3) for part in numbers.split(10)]


def nested(watch: Watch, outer: list[Batch], inner: list[Batch]) -> None:
    for _ in watch(outer):
        for _ in watch(inner):
            pass


def zipped(watch: Watch, outer: list[Batch], inner: list[Batch]) -> None:
    for _ in zip_longest(watch(outer), watch(inner)):
        pass


def in_turn(watch: Watch, outer: list[Batch], inner: list[Batch]) -> None:
    for part in (outer, inner):
        for _ in watch(part):
            pass


def endless(watch: Watch, outer: list[Batch], inner: list[Batch]) -> None:
    """The inner one starts anew whenever it is over."""

    def again() -> Iterator[Batch]:
        while True:
            yield from watch(inner)

    rest = again()
    for _ in watch(outer):
        next(rest)


@pytest.mark.parametrize("loop", [nested, zipped, in_turn, endless])
def test_what_is_kept_is_of_all_loaders_and_of_the_last_epoch(loop: Callable[..., None]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(1, 3)
    tunneller = Tunneller(
        model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        validate=lambda: 0.0,
        mode="min",
        client=FakePool().client(),
        sync=True,
    )
    with tunneller:
        for epoch in range(3):
            loop(tunneller.watch, loader(1000 * epoch, OUTER), loader(1000 * epoch + 500, INNER))
            tunneller.step(-epoch)
        rows = tunneller._reservoir.rows(10_000, np.random.default_rng(0))
        kept = {int(rows.sample(row).args[0]) for row in range(len(rows))}
    assert kept == {*range(2000, 2000 + OUTER), *range(2500, 2500 + INNER)}


def test_epochs_of_one_loader_without_a_check_are_epochs() -> None:
    model = nn.Linear(1, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    only = loader(0, OUTER)
    tunneller = Tunneller(
        model, optimizer=optimizer, validate=lambda: 0.0, mode="min", client=FakePool().client(), sync=True
    )
    with tunneller:
        for _ in range(3):
            for _ in tunneller.watch(only):
                pass
        assert tunneller._reservoir.size == OUTER
