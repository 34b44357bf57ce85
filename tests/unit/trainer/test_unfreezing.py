"""With `layer="auto"` the layers that may be tunnelled are those that may move at the stall."""

from collections import Counter
from typing import Any

import torch
from torch import nn

from tests.unit.trainer.fakes import FakePool, unchanged
from trainer import Tunneller

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(200) % 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def tunneller(model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> Tunneller:
    """One for which every step but the first is a stall."""
    settings: dict[str, Any] = {"client": FakePool(unchanged).client(), "validate": lambda: 0.0, "mode": "min"}
    settings |= {"patience": 1, "cooldown": 0, "sync": True, "layer": "auto", "tail_radius": 0.0}
    return Tunneller(model, optimizer=optimizer, **settings | options)


def steps(made: Tunneller, count: int) -> Counter[str]:
    """So many checks; the layers of the jobs that they led to."""
    known = len(made.history)
    for _ in range(count):
        made.observe(X, Y)
        made.step(1.0)
    told = [event.detail or "" for event in made.history[known:] if event.kind == "submitted"]
    return Counter(detail.partition(",")[0].split("'")[1] for detail in told)


def test_layers_that_are_freed_have_their_turn() -> None:
    """Gradual unfreezing: the plan says what it is about now, and the last layer stays the one that follows."""
    model = network()
    model[:4].requires_grad_(False)
    optimizer = torch.optim.SGD(model[4].parameters(), 0.1)
    with tunneller(model, optimizer) as made:
        assert set(steps(made, 4)) == {"4"}
        model[:4].requires_grad_(True)
        optimizer.add_param_group({"params": list(model[:4].parameters())})
        assert set(steps(made, 6)) == {"0", "2", "4"}
        assert made._layers[-1] == "4"
        assert "tunnels '4'" not in made.plan


def test_layers_that_are_frozen_or_put_in_count_as_they_are() -> None:
    """One that is frozen is left out without a word, and a new one is looked at."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with tunneller(model, optimizer) as made:
        assert set(steps(made, 6)) == {"0", "2", "4"}
        model[0].requires_grad_(False)
        model.insert(3, nn.Linear(8, 8))
        optimizer.add_param_group({"params": list(model[3].parameters())})
        assert set(steps(made, 8)) == {"2", "3", "5"}
        assert "failed" not in {event.kind for event in made.history}


def test_where_none_may_move_any_more_the_reasons_are_told() -> None:
    """As a stall that came to nothing."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with tunneller(model, optimizer) as made:
        steps(made, 2)
        model.requires_grad_(False)
        assert not steps(made, 2)
        assert "cannot be tunnelled any more" in (made.history[-1].detail or "")
