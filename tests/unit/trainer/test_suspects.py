"""Which samples answers give up on, by the row of the data or as the sample itself."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gdsolver import DataError, Tunneller
from tests.unit.trainer.fakes import FakePool, Suspects, least_squares
from trainer.adoption.suspicions import MOST

TARGETS = torch.arange(80) % 2
INPUTS = nn.functional.one_hot(TARGETS, 2).float() + 0.3 * torch.randn(80, 2, generator=torch.manual_seed(0))
DATA = (INPUTS, TARGETS)


def first(*margins: float) -> Suspects:
    """Results tell of the first samples of their snapshot."""
    return lambda _: [{"index": number, "margin": margin, "share": 1.0} for number, margin in enumerate(margins)]


def rows(margins: dict[int, float]) -> Suspects:
    """Results tell of these rows of the data, wherever they are in the snapshot."""
    places = {INPUTS[row].numpy().tobytes(): margin for row, margin in margins.items()}
    return lambda sent: [
        {"index": place, "margin": places[sample.tobytes()], "share": 1.0}
        for place, sample in enumerate(sent.inputs)
        if sample.tobytes() in places
    ]


def tunneller(pool: FakePool, **settings: Any) -> Tunneller:
    torch.manual_seed(0)
    net = nn.Linear(2, 2)
    return Tunneller(
        net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        validate=lambda: 0.5,
        mode="max",
        client=pool.client(),
        **{"radius": 1.0, "sync": True, "samples": 20, "patience": 1, "cooldown": 0, **settings},
    )


def solving(suspects: Suspects) -> FakePool:
    pool = FakePool(least_squares)
    pool.suspects = suspects
    return pool


def test_data_in_memory_is_named_by_its_rows() -> None:
    """Whatever a job's samples are chosen from, the index leads back to the row that was sent."""
    pool = solving(first(-2.0, -1.0))
    asking = tunneller(pool, data=DATA, keep=40)
    asking.close(polish=True, timeout=10.0)
    found, sent = asking.suspects(), pool.snapshots[0]
    assert [one.margin for one in found] == [-2.0, -1.0]
    for number, one in enumerate(found):
        assert one.index is not None
        assert one.sample is None
        assert np.array_equal(INPUTS[one.index], sent.inputs[number])
        assert one.label == TARGETS[one.index] == sent.targets[number]


def test_a_shuffled_loader_gives_the_sample_itself() -> None:
    """Batches without numbers: the kept sample, and the same one is recognised in the next epoch."""
    pool = solving(first(-1.0))
    asking = tunneller(pool, samples=1000)
    loader = DataLoader(TensorDataset(*DATA), batch_size=16, shuffle=True)
    for _ in range(6):
        for _ in asking.watch(loader):
            pass
        asking.step(0.5)
    found = asking.suspects()
    assert sum(one.answers for one in found) == len(pool.snapshots) > 1
    for one in found:
        assert one.index is None
        assert one.sample is not None
        (sent,) = [number for number in range(80) if torch.equal(INPUTS[number], one.sample.args[0][0])]
        assert one.label == TARGETS[sent] == one.sample.targets[0]


def test_answers_add_up() -> None:
    """What most answers name comes first; margins are means over those that named it."""
    pool = solving(rows({3: -4.0}))
    asking = tunneller(pool, data=DATA, samples=1000)
    asking.step(0.5)
    asking.step(0.5)
    pool.suspects = rows({3: -1.0, 7: -3.0})
    asking.step(0.5)
    asking.step(0.5)
    jobs = len(pool.snapshots)
    three, seven = asking.suspects()
    assert (three.index, three.answers) == (3, jobs)
    assert three.margin == pytest.approx((-4.0 * (jobs - seven.answers) - seven.answers) / jobs)
    assert (seven.index, seven.margin) == (7, -3.0)
    assert 0 < seven.answers < jobs


def test_each_job_of_a_fan_out_has_its_own_samples() -> None:
    """Some jobs of a stall have another draw; each one's places are read by its own."""
    pool = solving(first(-1.0))
    asking = tunneller(pool, data=DATA, fanout=7)
    asking.close(polish=True, timeout=10.0)
    sent = {sent.inputs[0].tobytes() for sent in pool.snapshots}
    assert len(sent) > 1
    assert {INPUTS[one.index].numpy().tobytes() for one in asking.suspects()} == sent


def test_a_loop_may_number_its_samples() -> None:
    """`observe(..., index=...)` names samples as the data set does."""
    pool = solving(first(-1.0))
    asking = tunneller(pool)
    asking.observe(INPUTS, TARGETS, index=torch.arange(1000, 1080))
    asking.close(polish=True, timeout=10.0)
    (found,) = asking.suspects()
    assert found.index is not None
    assert np.array_equal(INPUTS[found.index - 1000], pool.snapshots[0].inputs[0])


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ([1, 2], "2 numbers for a batch of 80"),
        (torch.rand(80), "whole number for each sample"),
        (torch.rand(80).bfloat16(), "whole number for each sample"),
        (3, "whole number for each sample"),
        (["a"] * 80, "whole number for each sample"),
        ([[1], [2, 3]], "whole number for each sample"),
    ],
)
def test_numbers_that_name_nothing_are_told(index: Any, told: str) -> None:
    """One whole number for each sample of the batch."""
    with pytest.raises(DataError, match=told):
        tunneller(FakePool()).observe(INPUTS, TARGETS, index=index)


@pytest.mark.parametrize(
    "told", [{"index": 20, "margin": -1.0}, {"index": -1, "margin": -1.0}, {"index": 0, "margin": float("inf")}]
)
def test_what_no_job_can_have_said_is_passed_over(told: dict[str, Any]) -> None:
    """A pool is not believed about places that its job did not have."""
    asking = tunneller(solving(lambda _: [{**told, "share": 1.0}]), data=DATA)
    asking.close(polish=True, timeout=10.0)
    assert asking.suspects() == []


def test_who_found_nothing_better_says_nothing_of_labels() -> None:
    """GD's own weights give up on samples, too."""
    pool = solving(first(-1.0))
    pool.improved = False
    asking = tunneller(pool, data=DATA)
    asking.close(polish=True, timeout=10.0)
    assert asking.suspects() == []


def test_no_more_are_remembered_than_a_person_looks_at() -> None:
    """The least likely ones are let go."""
    inputs = torch.randn(400, 2, generator=torch.manual_seed(0))
    pool = solving(first(*np.linspace(-2.0, -1.0, 300)))
    asking = tunneller(pool, data=(inputs, (inputs[:, 0] > 0).long()), samples=400)
    asking.close(polish=True, timeout=10.0)
    found = asking.suspects()
    assert len(found) == MOST
    assert max(one.margin for one in found) < -1.3
