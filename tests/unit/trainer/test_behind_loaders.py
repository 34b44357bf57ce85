"""Random generators and counts behind a data loader are put back: a validation more must not change later batches."""

import random
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, default_collate, random_split

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Tunneller
from trainer.restoring import tensors
from trainer.restoring.attributes import attributes_kept
from trainer.restoring.draws import draws_kept, loaders_kept

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(120) % 4
Pair = tuple[Tensor, Tensor]


class Jitter:
    """A transform with a generator of its own."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __call__(self, x: Tensor) -> Tensor:
        return x + torch.tensor(self.generator.normal(0, 0.1, 6), dtype=torch.float32)


class Compose:
    """Several transforms."""

    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, x: Tensor) -> Tensor:
        for transform in self.transforms:
            x = transform(x)
        return x


class Samples(Dataset[Pair]):
    """Draws, or counts, whenever it is asked for a sample."""

    def __init__(self, change: Callable[["Samples", Tensor], Tensor]) -> None:
        self.change, self.random, self.count, self.cache = change, random.Random(0), 0, dict[int, int]()
        self.jitter, self.compose = Jitter(), Compose([Compose([Jitter()])])

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Pair:
        self.cache[index] = self.cache.get(index, 0) + 1
        return self.change(self, X[index]), Y[index]

    def counted(self, x: Tensor) -> Tensor:
        """A curriculum by draws."""
        self.count += 1
        return x * (1 + 1e-3 * self.count + 1e-3 * sum(self.cache.values()))


class Collate:
    """A collation with a generator of its own."""

    def __init__(self) -> None:
        self.generator, self.calls = torch.Generator().manual_seed(0), 0

    def __call__(self, samples: list[Pair]) -> Any:
        x, y = default_collate(samples)
        self.calls += 1
        return x + 0.1 * torch.randn(x.shape, generator=self.generator) + 1e-3 * self.calls, y


CHANGES: dict[str, Callable[[Samples, Tensor], Tensor]] = {
    "generator of the set": lambda kept, x: x + kept.random.gauss(0, 0.1),
    "generator of a transform": lambda kept, x: kept.jitter(x),
    "generator in lists of transforms": lambda kept, x: kept.compose(x),
    "count of the set": Samples.counted,
    "none": lambda _, x: x,
}
SPLITS: dict[str, Callable[[Any], Any]] = {
    "split": lambda part: part,
    "joined": lambda part: ConcatDataset([part]),
    "part of a part": lambda part: Subset(part, range(30)),
}


def losses(data: Any, other: Any, collate: Any, tunnelled: bool) -> list[float]:
    """Of a loop that trains and validates by loaders of the same objects; no answer helps."""
    torch.manual_seed(0)
    model, found = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), list[float]()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train, held_out = DataLoader(data, 40, shuffle=True, collate_fn=collate), DataLoader(other, 40, collate_fn=collate)

    def validate() -> float:
        with torch.no_grad():
            return sum(nn.functional.cross_entropy(model(x), y).item() for x, y in held_out)

    options: dict[str, Any] = {"patience": 1, "cooldown": 0, "sync": True, "min_delta": 1e9, "validate": validate}
    client = FakePool(least_squares).client()
    made = Tunneller(model, optimizer=optimizer, client=client, mode="min", **options) if tunnelled else None
    for _ in range(3):
        for x, y in made.watch(train) if made else train:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        found.append(validate())
        if made:
            made.step(found[-1])
    if made:
        assert "submitted" in {event.kind for event in made.history}
        assert made.close().adopted == 0
    return found


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_training_and_validation_data_share_is_put_back(change: str, split: str) -> None:
    """Two parts of one data set draw from one generator, and count in one place."""

    def run(tunnelled: bool) -> list[float]:
        first, second = random_split(Samples(CHANGES[change]), [80, 40], generator=torch.Generator().manual_seed(0))
        return losses(first, SPLITS[split](second), None, tunnelled)

    assert run(False) == run(True)


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_two_loaders_collate_by_is_put_back(wrapped: bool) -> None:
    """As Hugging Face's collator with a seed, which one Trainer has for training and evaluation; or in a function."""

    def run(tunnelled: bool) -> list[float]:
        collate = Collate()
        given = (lambda samples: collate(list(samples))) if wrapped else collate
        return losses(TensorDataset(X[:80], Y[:80]), TensorDataset(X[80:], Y[80:]), given, tunnelled)

    assert run(False) == run(True)


def test_generators_of_a_librarys_objects_are_found() -> None:
    """Whatever classes lie between a loader and a generator."""

    class Library:
        __module__ = "numpy.of_somebody"

        def __init__(self) -> None:
            self.kept = [{"generator": (np.random.RandomState(0), np.random.default_rng(0), random.SystemRandom())}]

    Library.__module__ = "numpy.of_somebody"
    made = Library()
    old, new, _ = made.kept[0]["generator"]
    before = old.get_state()[2], new.bit_generator.state
    with draws_kept([DataLoader(TensorDataset(X), collate_fn=made)]):  # type: ignore[arg-type]
        old.rand()
        new.random()
    assert (old.get_state()[2], new.bit_generator.state) == before


def test_data_themselves_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a set of tensors, or of a list of them, there is nothing to be put back."""
    copied = list[int]()
    copy = tensors._copy
    monkeypatch.setattr(tensors, "_copy", lambda value: copied.append(len(value)) or copy(value))
    for data in (TensorDataset(X, Y), list(zip(X, Y, strict=True)), [{"x": x} for x in X]):
        with loaders_kept([DataLoader(Subset(data, range(20)))]):  # type: ignore[arg-type]
            pass
        with attributes_kept(nn.Module(), loaders=[[(X, Y)], data]):
            pass
    assert copied == []


def test_what_a_loader_of_ones_own_sets_is_put_back() -> None:
    """A class with nothing of torch's that counts its epochs."""

    class Stages:
        epoch = 0

        def __init__(self) -> None:
            self.begun, self.stream = 0, iter([1])

        def __iter__(self) -> Any:
            self.begun += 1
            Stages.epoch += 1
            return iter([(X, Y)])

    loader = Stages()
    with attributes_kept(nn.Module(), loaders=[loader]) as drawn:
        next(iter(loader))
    assert (loader.begun, Stages.epoch, drawn) == (0, 0, [])


def test_samples_in_memory_are_not_looked_at_one_by_one() -> None:
    """A data set's long list keeps its length and order; it takes no more time than that."""
    samples = Samples(CHANGES["none"])
    samples.rows = [Mock(spec=[]) for _ in range(200)]  # type: ignore[attr-defined]
    first = samples.rows[0]  # type: ignore[attr-defined]
    with attributes_kept(nn.Module(), loaders=[DataLoader(samples)]):
        first.seen = 1
        samples.rows.pop(0)  # type: ignore[attr-defined]
    assert (samples.rows[0], first.seen) == (first, 1)  # type: ignore[attr-defined]
