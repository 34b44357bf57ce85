"""After an adoption the optimizer goes on as a new one would, in the tensors and entries that it had."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.unit.trainer.fakes import FakePool, least_squares
from tests.unit.trainer.models import classes
from trainer import Tunneller
from trainer.adoption import parameters

X, Y = classes()
STALLED = 1.0
Made = Callable[[Any], Optimizer]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def train(model: nn.Module, optimizer: Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()


OPTIMIZERS: dict[str, Made] = {
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
    "Adam foreach": lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01, initial_accumulator_value=0.5),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.02),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.02),
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "SGD nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, foreach=True),
    "SGD dampened": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5),
    "SGD fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_goes_on_as_a_new_one_does(name: str) -> None:
    """The next steps are a new optimizer's to the bit, and every entry is still there."""
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)
    before = {part: set(optimizer.state[part]) for part in model.parameters()}
    parameters.forget(model, optimizer, [name for name, _ in model.named_parameters()])
    assert {part: set(optimizer.state[part]) for part in model.parameters()} == before
    other = copy.deepcopy(model)
    train(model, optimizer)
    train(other, OPTIMIZERS[name](other.parameters()))
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "SGD dampened"])
def test_tensors_of_a_state_are_written_in_place(name: str) -> None:
    """Who holds on to a moment, as a captured graph does, holds the new one."""
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)
    weight = model[2].weight
    held = {entry: value for entry, value in optimizer.state[weight].items() if isinstance(value, Tensor)}
    other = {part: copy.deepcopy(optimizer.state[part]) for part in model[0].parameters()}
    parameters.forget(model, optimizer, ["2.weight"])
    assert held
    assert all(optimizer.state[weight][entry] is value for entry, value in held.items())
    for part, state in other.items():
        assert all(
            torch.equal(torch.as_tensor(optimizer.state[part][entry]), torch.as_tensor(state[entry])) for entry in state
        )


def test_a_first_momentum_is_not_dampened() -> None:
    """Where it would be, there is none until the next step, as in a new optimizer."""
    model = network()
    optimizer = OPTIMIZERS["SGD dampened"](model.parameters())
    train(model, optimizer)
    parameters.forget(model, optimizer, ["2.weight"])
    assert optimizer.state[model[2].weight]["momentum_buffer"] is None


def test_a_step_of_its_own_type_begins_at_0_in_it() -> None:
    """States of older releases count in whole numbers, and entries of one's own stay."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer)
    state = optimizer.state[model[2].weight]
    state["step"], state["note"] = 3, "mine"
    parameters.forget(model, optimizer, ["2.weight"])
    assert (state["step"], type(state["step"]), state["note"]) == (0, int, "mine")


@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "Adam fused"])
def test_a_loop_may_look_at_moments_after_an_adoption(name: str) -> None:
    """Between `step` and the optimizer's next one they are there, and 0."""
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    options: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "mode": "min", "sync": True}
    options |= {"data": (X, Y), "client": FakePool(least_squares).client(), "radius": 0.3}
    validate = lambda: nn.functional.cross_entropy(model(X), Y).item()  # noqa: E731
    with Tunneller(model, optimizer=optimizer, validate=validate, **options) as made:
        for _ in range(6):
            train(model, optimizer, 1)
            if made.step(STALLED):
                break
        entries = optimizer.state[model[2].weight]
        assert made.summary().adopted == 1
        assert not any(value.any() for value in entries.values() if isinstance(value, Tensor))
        assert set(entries) == set(optimizer.state[model[0].weight])
