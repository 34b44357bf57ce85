"""What a newcomer hands over by mistake is told when the tunneller is made, and not from within its calls."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from gdsolver import SolverClient, Tunneller
from tests.unit.trainer.fakes import FakePool, least_squares


def tunneller(pool: FakePool, **options: Any) -> Tunneller:
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 1), torch.randn(40, 4)
    settings: dict[str, Any] = {"mode": "min", "validate": lambda: 1.0, "client": pool.client(), "radius": 10.0}
    settings |= {"data": (inputs, inputs.sum(dim=1, keepdim=True))} | options
    return Tunneller(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), **settings)


class Scorer:
    """Can be called once it is made."""

    def __call__(self, model: object) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"validate": lambda model: 1.0}, r"^validate is .*; use a function without arguments that scores the model"),
        ({"validate": Scorer()}, r"^validate is .*; use a function without arguments"),
        ({"screen": lambda model: 1.0}, r"^screen is .*; use a function without arguments"),
        ({"split": lambda inputs, targets: ((inputs,), {}, targets)}, r"^split is .*; use a function of a batch"),
        ({"on_event": lambda: None}, r"^on_event is .*; use a function of one event"),
        ({"client": SolverClient}, r"^client is <class .*SolverClient'>; use SolverClient\('http"),
    ],
)
def test_what_cannot_be_called_as_it_will_be_is_refused(options: dict[str, Any], told: str) -> None:
    """A function with other parameters, and the client's class in the place of a client."""
    with pytest.raises(ValueError, match=told):
        tunneller(FakePool(), **options)


@pytest.mark.parametrize("validate", [partial(Scorer(), None), lambda *_, **__: 1.0, lambda model=None: 1.0, int])
def test_what_can_be_called_without_arguments_is_taken(validate: Any) -> None:
    """Whatever it is: its parameters may have defaults, and what is built in may not tell."""
    with tunneller(FakePool(), validate=validate, on_event=print) as made:
        assert made.plan.startswith("tunnels")


def test_a_single_call_is_told_as_one() -> None:
    """As stalls, jobs and answers are."""
    with tunneller(FakePool(least_squares)) as made:
        made.step(1.0)
        assert "s in 1 call, passes" in str(made.summary())
