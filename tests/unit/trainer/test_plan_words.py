"""What the first batch is told: which objective jobs have and why, and what targets may be that are all alike."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gdsolver import DataError, Tunneller
from tests.unit.trainer.fakes import FakePool


def plan(targets: Tensor, **options: Any) -> str:
    """What a tunneller plans for a small network with as many outputs as targets have columns."""
    torch.manual_seed(0)
    model = options.pop("model", None) or nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, targets.shape[1]))
    settings: dict[str, Any] = {"mode": "min", "validate": lambda: 1.0, "data": (torch.randn(60, 5), targets)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tunneller(model, optimizer=optimizer, client=FakePool().client(), **(settings | options)) as made:
        return made.plan


NUMBERS = torch.linspace(-1, 1, 60)[:, None]


def test_a_default_for_numbers_is_said_to_be_one() -> None:
    """A loop of squared errors gets absolute ones unless it says otherwise; the plan says so and what there is."""
    told = plan(NUMBERS)
    assert "(regression, mae)" in told
    assert "; mae (absolute errors) because no objective was given" in told
    assert "objective='mse'" in told
    assert "huber" in told


@pytest.mark.parametrize("options", [{"objective": "mae"}, {"objective": "mse"}, {"objective": "mse", "layer": "0"}])
def test_an_objective_that_was_asked_for_needs_no_words(options: dict[str, Any]) -> None:
    """It is named, and that is all."""
    assert plan(NUMBERS, **options).endswith("answers after at most 10 s")


def test_an_objective_that_jobs_cannot_have_is_told() -> None:
    """Squared errors behind a kink, with the last layer fixed, are replaced; that was silent."""
    assert "its jobs minimise mae in the place of mse" in plan(NUMBERS, objective="mse", layer="0", tail_radius=0.0)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_targets_that_are_all_alike_are_told_as_that(outputs: int, value: float) -> None:
    """Not as `0 and 1`: they may have got lost on the way; if they are meant so, the task says what they are."""
    targets = torch.full((60, outputs), value)
    with pytest.raises(
        DataError, match=rf"^every target is {value:g}, as a floating-point number.*task=\"regression\""
    ):
        plan(targets)
    assert "(regression, mae)" in plan(targets, task="regression")


def test_zeros_and_ones_are_told_as_that() -> None:
    """Where both are there."""
    with pytest.raises(DataError, match=r"^the targets are 0 and 1 as floating-point numbers beside one output; say"):
        plan((NUMBERS > 0).float())


def test_a_model_that_is_one_layer_has_a_name() -> None:
    """It has none of its own."""
    assert plan(NUMBERS, model=nn.Linear(5, 1)).startswith("tunnels the model itself (")
