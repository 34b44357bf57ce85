"""Python values beside a batch's tensors: each sample's own go with it, and none come from another batch."""

import re
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, unchanged
from trainer import Tunneller
from trainer.errors import DataError
from trainer.samples.batches import Batch
from trainer.samples.reservoir import Reservoir

COUNT = 48
SEEN = Mock()
"""Called with the type of what stood beside the tensors of a model: a set of types would be put back."""
Pair = namedtuple("Pair", "names lengths")


@dataclass
class Meta:
    """What some loops hand on beside the tensors."""

    names: list[str]


class Words(list[str]):
    """A class of its own."""


MAKERS: dict[str, Callable[[list[int]], Any]] = {
    "list of words": lambda numbers: [f"n{number}" for number in numbers],
    "tuple of numbers": tuple,
    "list of lists of several lengths": lambda numbers: [[number] * (1 + number % 3) for number in numbers],
    "list of lists of one length": lambda numbers: [[number, 0] for number in numbers],
    "list of mappings": lambda numbers: [{"is": number} for number in numbers],
    "list of tensors without dimensions": lambda numbers: [torch.tensor(number) for number in numbers],
    "array": np.array,
    "array of objects": lambda numbers: np.array([f"n{number}" for number in numbers], object),
    "list in a mapping": lambda numbers: {"names": numbers, "temperature": 1.0},
    "lists in a named tuple": lambda numbers: Pair([str(number) for number in numbers], tuple(numbers)),
    "lists in a list": lambda numbers: [numbers, tuple(numbers)],
}


def number_of(entry: Any) -> float:
    """The sample's number, whatever it is in."""
    if isinstance(entry, dict):
        return float(entry["is"])
    if isinstance(entry, list):
        return float(entry[0])
    return float(str(entry).removeprefix("n")) if isinstance(entry, str) else float(entry)


def numbers_of(beside: Any) -> list[float]:
    """Each sample's number, of what stands beside the tensors."""
    if isinstance(beside, dict):
        beside = beside["names"]
    if isinstance(beside, Pair) or (len(beside) == 2 and isinstance(beside[1], tuple)):
        first, second = ([number_of(entry) for entry in part] for part in beside)
        assert first == second
        return first
    return [number_of(entry) for entry in beside]


class Reading(nn.Module):
    """Reads a sample's number from its tensor and from what stands beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 4)

    def forward(self, x: Tensor, beside: Any) -> Tensor:
        SEEN(type(beside))
        return self.head(torch.stack([x[:, 0], torch.tensor(numbers_of(beside))], dim=1))


def batches(make: Callable[[list[int]], Any], size: int, *, seed: int = 0) -> Iterator[tuple[Tensor, Any, Tensor]]:
    """A shuffled epoch."""
    for numbers in torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed)).split(size):
        yield numbers[:, None].float(), make(numbers.tolist()), numbers % 4


def split(batch: tuple[Tensor, Any, Tensor]) -> tuple[Any, ...]:
    x, beside, targets = batch
    return (x, beside), {}, targets


def tunnelled(pool: FakePool) -> Tunneller:
    """A stall at every step, of a model that reads what stands beside its tensors."""
    model = Reading()
    return Tunneller(
        model,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        validate=lambda: 0.0,
        mode="min",
        client=pool.client(),
        split=split,
        patience=1,
        sync=True,
    )


def jobs_of(make: Callable[[list[int]], Any], size: int) -> list[Snapshot]:
    """What the pool is sent, by a loop of a few epochs."""
    torch.manual_seed(0)
    SEEN.reset_mock()
    pool = FakePool(unchanged)
    tunneller = tunnelled(pool)
    for epoch in range(4):
        for _ in tunneller.watch(list(batches(make, size, seed=epoch))):
            pass
        tunneller.step(1.0)
    tunneller.close()
    assert {type(make([1, 2, 3]))} == {call.args[0] for call in SEEN.call_args_list}
    return pool.snapshots


@pytest.mark.parametrize("size", [8, 32, COUNT])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_each_sample_has_goes_with_it(make: Callable[[list[int]], Any], size: int) -> None:
    jobs = jobs_of(make, size)
    assert jobs
    for job in jobs:
        assert len(job.inputs) == COUNT
        np.testing.assert_array_equal(job.inputs[:, 0], job.inputs[:, 1])


def rows(reservoir: Reservoir) -> list[Batch]:
    found = reservoir.rows(1000, np.random.default_rng(0)).batches(1000, torch.device("cpu"))
    return [batch for _, batch in found]


def observed(*given: tuple[int, Any]) -> Reservoir:
    """Batches of so many samples, each with something beside."""
    reservoir = Reservoir(split=split)
    reservoir.begin()
    for size, beside in given:
        reservoir.observe((torch.ones(size, 1), beside, torch.zeros(size, dtype=torch.int64)))
    return reservoir


@pytest.mark.parametrize("beside", [["a"], ("a",)])
def test_in_a_batch_of_one_a_list_of_one_is_refused(beside: Any) -> None:
    with pytest.raises(DataError, match=re.escape("argument 1 of this batch, a ") + ".* may be of each.*numpy"):
        observed((1, beside))


def test_in_a_batch_of_two_a_pair_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("argument 1['size'] of this batch, a tuple of 2")):
        observed((2, {"size": (224, 224)}))


@pytest.mark.parametrize("beside", [["a"], ["a", "b"]])
def test_the_cure_cures(beside: list[str]) -> None:
    kept = observed(*((len(beside), np.array(beside, object)) for _ in range(3)))
    (batch,) = rows(kept)
    assert sorted(batch.args[1]) == sorted(3 * beside)


def test_what_is_the_same_for_all_is_known_from_a_batch_of_another_size() -> None:
    kept = observed((5, (224, 224)), (2, (224, 224)))
    (batch,) = rows(kept)
    assert batch.samples == 7
    assert batch.args[1] == (224, 224)


def test_what_each_sample_has_is_known_from_a_batch_of_another_size() -> None:
    kept = observed((5, list("abcde")), (1, ["f"]))
    (batch,) = rows(kept)
    assert sorted(batch.args[1]) == list("abcdef")


def test_what_was_of_each_sample_and_is_so_no_more_is_refused() -> None:
    with pytest.raises(DataError, match="argument 1 of this batch has 4 entries beside 3 samples"):
        observed((4, [1, 2, 3, 4]), (3, [1, 2, 3, 4]))


@pytest.mark.parametrize(
    "beside", [Meta(["a", "b", "c"]), Words("abc"), {"a", "b", "c"}], ids=["dataclass", "subclass", "set"]
)
def test_what_hides_something_of_each_sample_is_refused(beside: Any) -> None:
    with pytest.raises(DataError, match=f"argument 1 of this batch is a {type(beside).__name__} that holds"):
        observed((3, beside))


@dataclass
class Named:
    """Of other sizes."""

    names: dict[str, int]
    sizes: list[int]


@pytest.mark.parametrize(
    "beside",
    [nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU()), split, Named({"a": 1, "b": 2, "c": 3}, [1]), "abc", range(3)],
    ids=lambda beside: type(beside).__name__,
)
def test_what_counts_no_samples_is_handed_on_as_it_is(beside: Any) -> None:
    (batch,) = rows(observed((3, beside), (3, beside)))
    assert batch.samples == 6
    assert batch.args[1] is beside


class Looks:
    """One looks like another."""

    def __repr__(self) -> str:
        return "Looks()"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor(0.12341), torch.tensor(0.12342)),
        (np.zeros((2, 2000)), np.eye(2, 2000, 1000)),
        (Looks(), Looks()),
        (1, True),
        ({"scale": 1.0}, {"scale": 2.0}),
        (Meta(["a"] * 7), Meta(["b"] * 7)),
    ],
)
def test_no_form_comes_from_another_batch(one: Any, other: Any) -> None:
    kept = rows(observed((8, one), (8, other)))
    assert [batch.samples for batch in kept] == [8, 8]
    assert sorted(id(batch.args[1]) for batch in kept) == sorted(map(id, (one, other))) or isinstance(one, dict)


def test_equal_forms_are_stacked() -> None:
    (batch,) = rows(observed(*((8, {"scale": 1.0, "how": Meta(["a"]), "at": torch.tensor(2)}) for _ in range(3))))
    assert batch.samples == 24


def test_rows_that_differ_beside_the_tensors_alone_are_several() -> None:
    reservoir = Reservoir(split=split)  # epochs unannounced: equal rows count once
    for beside in (list("abc"), list("abd")):
        reservoir.observe((torch.ones(3, 1), beside, torch.zeros(3, dtype=torch.int64)))
    assert sum(batch.samples for batch in rows(reservoir)) == 4


def test_rows_beside_the_tensors_count_in_keep_mb() -> None:
    words = ["x" * 100_000] * 16
    reservoir = Reservoir(split=split, keep_mb=1.0)
    for _ in range(4):
        reservoir.observe((torch.rand(16, 1), words, torch.zeros(16, dtype=torch.int64)))
    assert sum(batch.samples for batch in rows(reservoir)) <= 10


def test_a_sample_with_infinity_is_left_out_beside_words() -> None:
    def endless(numbers: list[int]) -> Any:
        return [f"n{number}" for number in numbers]

    pool = FakePool(unchanged)
    tunneller = tunnelled(pool)
    for _ in range(3):
        for x, beside, targets in batches(endless, 16):
            tunneller.observe((torch.where(x == 5, torch.inf, x), beside, targets))
        tunneller.step(1.0)
    tunneller.close()
    assert {len(job.inputs) for job in pool.snapshots} == {COUNT - 1}
