"""Groups of samples: from a batch, a `split` or tensors in memory into every job, its choice of samples, its trials."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gdsolver import MinAccuracy, Objective, RateGap, RecallFloor, Tunneller
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool
from trainer.errors import DataError
from trainer.samples.batches import Batch, read_batch
from trainer.snapshots.assembly import choose

GROUPED: list[dict[str, Any]] = [
    {"constraints": [MinAccuracy(0.5), RateGap(0.1)]},
    {"constraints": [MinAccuracy(0.5), {"type": "group_rate_gap", "value": 0.1}]},
    {"constraints": [MinAccuracy(0.5), RecallFloor(0, 0.1, groups=10)]},
    {"objective": "worst_group"},
    {"objective": Objective("worst_group")},
]
ROWS, CLASSES = 300, 3


def samples() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs whose first entry tells the sample's group, 10 or 20, and classes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, 6, generator=generator)
    groups = 10 + 10 * (torch.arange(ROWS) % 5 == 0).long()
    inputs[:, 0] = groups
    return inputs, torch.randint(0, CLASSES, (ROWS,), generator=generator), groups


def tunneller(pool: FakePool, **asked: Any) -> Tunneller:
    torch.manual_seed(0)
    model = nn.Linear(6, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    asked = {"mode": "min", "patience": 1, "cooldown": 0, "client": pool.client()} | asked
    return Tunneller(model, optimizer=optimizer, validate=lambda: 1.0, **asked)


def sent(pool: FakePool, made: Tunneller, batches: list[Any]) -> Snapshot:
    """The snapshot of the first stall in a loop over these batches."""
    with made:
        for _ in range(3):
            for _batch in made.watch(batches):
                pass
            made.step(1.0)
            made._worker.idle.wait(30)
    return pool.snapshots[0]


@pytest.mark.parametrize("asked", GROUPED, ids=str)
def test_groups_reach_every_job(asked: dict[str, Any]) -> None:
    """By whatever way they are given: each sample keeps its own, through the choice of samples."""
    inputs, targets, groups = samples()
    parts = list(zip(*(part.split(50) for part in (inputs, targets, groups)), strict=True))
    ways: Mapping[str, tuple[dict[str, Any], list[Any]]] = {
        "split": ({"split": lambda batch: ((batch[0],), {}, batch[1], None, batch[2])}, parts),
        "of a column": ({"split": lambda batch: Batch((batch[0],), {}, batch[1], groups=batch[0][:, 0])}, parts),
        "batches": ({}, [Batch((x,), {}, y, groups=g) for x, y, g in parts]),
        "data": ({"data": (inputs, targets, None, groups)}, []),
        "data with weights": ({"data": (inputs, targets, torch.ones(ROWS), groups)}, []),
    }
    for how, batches in ways.values():
        pool = FakePool()
        snapshot = sent(pool, tunneller(pool, samples=120, **how, **asked), batches)
        assert snapshot.group is not None
        assert snapshot.group.dtype == np.int64
        np.testing.assert_array_equal(snapshot.group, snapshot.inputs[:, 0])
        assert set(snapshot.group) == {10, 20}


@pytest.mark.parametrize("asked", GROUPED, ids=str)
def test_without_groups_the_first_batch_says_how_to_give_them(asked: dict[str, Any]) -> None:
    """At once, and by the name of what needs them."""
    inputs, targets, _ = samples()
    told = r"^(constraints\[1\] \(\w+\)|objective 'worst_group') compares groups.*none; give them by split="
    with pytest.raises(DataError, match=told):
        tunneller(FakePool(), data=(inputs, targets), **asked)
    with tunneller(FakePool(), **asked) as made, pytest.raises(DataError, match=told):
        made.observe(inputs, targets)


def test_groups_of_some_batches_only_are_named() -> None:
    """What is missing is not made up."""
    inputs, targets, groups = samples()
    with tunneller(FakePool(), objective="worst_group") as made:
        made.observe(Batch((inputs[:50],), {}, targets[:50], groups=groups[:50]))
        made.observe(inputs[50:], targets[50:])
        with pytest.raises(DataError, match="some batches have groups and some have none"):
            made._inspector.look(made._layers, 0, most=ROWS)


@pytest.mark.parametrize("given", [torch.tensor([0.5, 1.0]), ["a", "b"], torch.tensor(1), torch.tensor([1j, 0])])
def test_groups_are_whole_numbers(given: Any) -> None:
    """Whatever else is given is named."""
    whole = ((torch.zeros(2, 1),), {}, torch.zeros(2), None, given)
    with pytest.raises(DataError, match="groups"):
        read_batch("odd", lambda _: whole)


def test_rare_groups_are_among_the_samples_chosen() -> None:
    """Each class of each group has its turn, and the weights undo that."""
    generator = np.random.default_rng(0)
    total = 4000
    group = (np.arange(total) < 40).astype(np.int64) * 7
    targets = generator.integers(0, 2, total)
    whole = Snapshot(
        task="classification",
        inputs=generator.normal(size=(total, 2)).astype(np.float32),
        targets=targets,
        weight=np.eye(2, dtype=np.float32),
        group=group,
    )
    chosen, weights = choose(whole, whole.inputs, 200, generator)
    assert weights is not None
    rare = group[chosen] == 7
    assert rare.sum() == 40  # with classes alone it would be two
    assert weights[rare].sum() / weights.sum() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    "asked", [RecallFloor(2, 0.1), RecallFloor(0, 0.1, groups=20), RateGap(0.5), RateGap(0.5, classes=2)], ids=str
)
def test_the_first_batch_need_not_hold_every_class_and_group(asked: Any) -> None:
    """A rare one comes later; the job has it."""
    inputs, targets, groups = samples()
    order = torch.argsort((targets == 2).int() + (groups == 20).int(), stable=True)
    batches = [Batch((inputs[part],), {}, targets[part], groups=groups[part]) for part in order.split(30)]
    pool = FakePool()
    snapshot = sent(pool, tunneller(pool, constraints=[asked]), batches)
    assert set(snapshot.targets) == {0, 1, 2}
    assert set(snapshot.group if snapshot.group is not None else ()) == {10, 20}
