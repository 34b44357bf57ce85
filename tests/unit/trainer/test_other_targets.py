"""A few batches with targets of another kind (mixup, soft labels): they are left out, and everything else goes on."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainer.fakes import FakePool
from tests.unit.trainer.models import Made
from trainer import Tunneller

N, T = 60, 5
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
Y, TOKENS = torch.arange(N) % 4, torch.randint(4, (N, T), generator=torch.Generator().manual_seed(2))
TEXT = torch.cat([4 * nn.functional.one_hot(TOKENS, 4).float(), torch.randn(N, T, 2)], dim=-1)
SOFT = torch.full((N, 4), 0.25)


def loop(model: nn.Module, batches: Sequence[Any], checks: int = 6, **options: Any) -> tuple[FakePool, Tunneller]:
    """A loop over such batches, the first of which is the first; every check but the first is a stall."""
    pool = FakePool()
    settings: dict[str, Any] = {"validate": lambda: 0.0, "mode": "min", "patience": 1, "cooldown": 0, "sync": True}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Tunneller(model, optimizer=optimizer, client=pool.client(), **settings | options) as found:
        for number in range(checks):
            for _ in found.watch(batches):
                pass
            found.step(float(number))
    return pool, found


def tagger() -> nn.Module:
    """What has learned the label of each position from the first four columns."""
    model = nn.Linear(6, 4)
    with torch.no_grad():
        model.weight.copy_(torch.eye(4, 6))
    return model


OTHERS: dict[str, tuple[nn.Module, Any, Any, dict[str, Any]]] = {
    "soft labels": (nn.Linear(6, 4), (X, Y), (X, SOFT), {}),
    "soft labels, of a task that was said": (nn.Linear(6, 4), (X, Y), (X, SOFT), {"task": "classification"}),
    "one-hot": (nn.Linear(6, 4), (X, Y), (X, torch.eye(4).long()[Y]), {}),
    "classes beside one-hot": (nn.Linear(6, 4), (X, torch.eye(4)[Y]), (X, Y), {"task": "classification"}),
    "classes as numbers": (nn.Linear(6, 4), (X, Y), (X, Y.float()), {}),
    "a second number": (nn.Linear(6, 1), (X, torch.rand(N, 1)), (X, torch.rand(N, 2)), {}),
    "two numbers for one": (nn.Linear(6, 1), (X, torch.rand(N)), (X, torch.rand(N, 2)), {}),
    "soft labels of positions": (tagger(), (TEXT, TOKENS), (TEXT, torch.rand(N, T, 4)), {}),
    "weights of no sample": (nn.Linear(6, 4), (X, Y, torch.rand(N)), (X, Y, torch.rand(N, 3)), {}),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", OTHERS)
def test_a_batch_with_other_targets_is_left_out(name: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """No stall fails, one warning says so, and jobs hold the others' targets alone."""
    model, plain, other, options = OTHERS[name]
    with caplog.at_level(logging.WARNING, logger="gdsolver"):
        pool, found = loop(model, [plain, other, plain], seed=seed, **options)
    assert not [event for event in found.history if event.kind == "failed"]
    assert len(pool.snapshots) >= 4
    assert [record.message for record in caplog.records if "a batch was left out: its" in record.message]
    assert len(caplog.records) == 1
    wanted = plain[1].reshape(-1) if name != "classes beside one-hot" else Y
    assert set(np.unique(pool.snapshots[-1].targets)) <= set(wanted.tolist())


ALIKE: dict[str, tuple[nn.Module, Any, Any, dict[str, Any]]] = {
    "one number or a column of it": (nn.Linear(6, 1), (X, torch.rand(N)), (X, torch.rand(N, 1)), {}),
    "a column or its numbers": (nn.Linear(6, 1), (X, torch.rand(N, 1)), (X, torch.rand(N)), {}),
    "classes in a column": (nn.Linear(6, 4), (X, Y), (X, Y[:, None]), {}),
    "other lengths": (tagger(), (TEXT, TOKENS), (TEXT[:, :2], TOKENS[:, :2]), {}),
    "a length of one": (tagger(), (TEXT[:, :1], TOKENS[:, :1]), (TEXT, TOKENS), {}),
    "whole numbers": (nn.Linear(6, 1), (X, torch.rand(N)), (X, Y), {"task": "regression"}),
    "labels as numbers": (nn.Linear(6, 1), (X, Y % 2), (X, (Y % 2).float()), {"task": "binary"}),
    "no samples": (nn.Linear(6, 4), (X, Y), (X[:0], Y[:0].float()), {}),
    "weights in some": (nn.Linear(6, 4), (X, Y), (X, Y, torch.rand(N)), {}),
}


@pytest.mark.parametrize("name", ALIKE)
def test_batches_that_are_read_alike_are_of_one_kind(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """As ever: both are in the jobs, and nothing is said."""
    model, plain, other, options = ALIKE[name]
    with caplog.at_level(logging.WARNING, logger="gdsolver"):
        _, found = loop(model, [plain, other], **options)
    assert not [event for event in found.history if event.kind == "failed"]
    assert not caplog.records
    rows = found._reservoir.rows(10_000, np.random.default_rng(0))
    assert len(rows) == len(plain[1]) + len(other[1])


def test_a_model_that_takes_other_targets_by_then_gets_them() -> None:
    """A head with two outputs is put in the place of one with one: from then on the new targets are the kind."""
    pool, model = FakePool(), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    settings: dict[str, Any] = {"validate": lambda: 0.0, "mode": "min", "patience": 1, "cooldown": 0, "sync": True}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Tunneller(model, optimizer=optimizer, client=pool.client(), layer="2", **settings) as found:
        for number in range(12):
            if number == 4:
                model[2] = nn.Linear(8, 2)
                optimizer.add_param_group({"params": model[2].parameters()})
            for _ in found.watch([(X, torch.rand(N, 1 if number < 4 else 2))]):
                pass
            found.step(float(number))
    assert pool.snapshots[0].outputs == 1
    assert pool.snapshots[-1].outputs == 2


def test_what_other_rows_cause_is_not_put_down_to_parts_of_a_batch() -> None:
    """Where each half of a whole batch runs, the model takes any of its rows: the words are about what does not run."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(x) if x.shape[1] == 6 or net.training else net.head(x[:, :5])

    _, found = loop(Made(forward, head=nn.Linear(6, 4)), [(X, Y), (torch.randn(N, 7), Y)])
    told = [event.detail or "" for event in found.history if event.kind == "failed"]
    assert told
    assert all("cannot be run on the batches as they were observed" in text for text in told)
    assert not any("only takes batches as the loop composes them" in text for text in told)
