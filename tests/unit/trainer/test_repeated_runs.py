"""With `sync` a step leaves nothing behind for the next one, however quick the pool is: a run can be repeated."""

import pytest
import torch
from torch import nn

from tests.unit.trainer.fakes import FakePool, unchanged
from trainer import Tunneller
from trainer.pool.messages import Stall

X, Y = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
VERDICTS = ("adopted", "rejected", "refused")


def quick(tunneller: Tunneller) -> None:
    """Let every answer be there before anybody can look whether it is."""
    worker = tunneller._worker
    launch = worker.launch

    def launch_and_land(stall: Stall) -> None:
        launch(stall)
        assert worker.idle.wait(timeout=30.0)

    worker.launch = launch_and_land  # type: ignore[method-assign]


@pytest.fixture
def tunneller() -> Tunneller:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    made = Tunneller(
        model,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        validate=lambda: 0.0,
        mode="min",
        client=FakePool(unchanged).client(),
        data=(X, Y),
        layer="auto",
        radius=0.3,
        patience=1,
        sync=True,
    )
    quick(made)
    return made


def open_answers(tunneller: Tunneller) -> int:
    kinds = [event.kind for event in tunneller.history]
    return kinds.count("answered") - sum(map(kinds.count, VERDICTS))


def test_what_follows_a_hidden_layers_answer_is_judged_in_the_same_step(tunneller: Tunneller) -> None:
    with tunneller:
        for _ in range(8):
            tunneller.step(1.0)
            assert open_answers(tunneller) == 0
    assert len({event.detail for event in tunneller.history if event.kind == "submitted"}) > 1


def test_what_follows_a_hidden_layers_answer_is_judged_in_the_polish(tunneller: Tunneller) -> None:
    tunneller.close(polish=True)
    submitted = [event for event in tunneller.history if event.kind == "submitted"]
    assert len(submitted) > 1
    assert open_answers(tunneller) == 0
