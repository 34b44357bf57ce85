"""What `validate` and the loop hand over as a score: numbers of any library, NaN and infinity."""

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gdsolver import StallDetector, Tunneller
from tests.unit.trainer.fakes import FakePool, least_squares


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def tunneller(model: nn.Module, validate: Callable[[], Any], **options: Any) -> Tunneller:
    """One that tunnels at every second check, and waits for the answer."""
    inputs = torch.randn(40, 4)
    settings: dict[str, Any] = {"mode": "min", "patience": 1, "cooldown": 0, "sync": True, "radius": 1.0}
    settings |= {"data": (inputs, inputs.sum(dim=1, keepdim=True)), "validate": validate} | options
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return Tunneller(model, optimizer=optimizer, client=FakePool(least_squares).client(), **settings)


WITH_GRADIENT = torch.ones(1, requires_grad=True).sum() / 2


@pytest.mark.parametrize("score", [WITH_GRADIENT, WITH_GRADIENT[None, None], np.array([0.5]), np.float32(0.5)])
def test_a_score_of_any_library_is_read_without_a_warning(score: Any) -> None:
    """A loss that nobody has detached, or an array of one: warnings are errors here."""
    with tunneller(network(), lambda: {"loss": score}, monitor="loss", require={"loss": score}) as made:
        for _ in range(2):
            made.step(score)
        assert [event.before for event in made.history if event.kind == "rejected"] == [0.5]
    assert not StallDetector(patience=2).update(score)


@pytest.mark.parametrize(
    ("now", "after", "mode", "told"),
    [
        (math.nan, math.nan, "min", "NaN"),
        (1.0, math.nan, "min", "NaN"),
        (math.inf, math.inf, "min", "infinity"),
        (math.inf, 1.0, "max", "infinity"),
        (1.0, -math.inf, "max", "-infinity"),
    ],
)
def test_a_validation_without_a_number_is_named(now: float, after: float, mode: str, told: str) -> None:
    """The reason and the hint are about `validate`, and neither about the box."""
    model = network()
    begun = model.weight.detach().clone()
    made = tunneller(model, lambda: now if torch.equal(begun, model.weight) else after, mode=mode)
    for _ in range(2):
        made.step(now)
    summary = made.close()
    assert list(summary.declined) == [f"validate() gave no finite number: {told}"]
    assert summary.advice.startswith("look at `validate`: print what it computes")


def test_nan_from_the_first_validation_on_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """One warning in the first step, and not after some stalls; boxes do not shrink for it."""
    with caplog.at_level(logging.WARNING, "gdsolver"), tunneller(network(), lambda: math.nan, radius=None) as made:
        for _ in range(5):
            made.step(math.nan)
    assert [record.message.split(",")[0] for record in caplog.records] == ["validate() gave NaN for the model as it is"]
    submitted = [event.detail for event in made.history if event.kind == "submitted"]
    assert len(submitted) > 1
    assert len(set(submitted)) == 1
