"""Networks made to deceive: what a job cannot hold is refused before it is posted, and training never shows a trace."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.unit.trainer.fakes import FakePool
from tests.unit.trainer.models import Made, classes, seen
from tests.unit.trainer.odd_models import FINE, REFUSED
from tests.unit.trainer.test_hostile_pools import Liar
from trainer import Tunneller

STALLED = 1.0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def first(net: nn.Module) -> str:
    return next(name for name, module in net.named_modules() if isinstance(module, nn.Linear))


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_looks_like_a_chain_is_refused(name: str) -> None:
    """From six initial weights each."""
    for seed in range(6):
        torch.manual_seed(seed)
        net = REFUSED[name]()
        assert first(net) in seen(net, *classes()).refused


@pytest.mark.parametrize("name", FINE)
def test_what_is_a_chain_is_captured(name: str) -> None:
    """Batch statistics before the layer, other dtypes, more outputs in evaluation mode: no reason to refuse."""
    for seed in range(3):
        torch.manual_seed(seed)
        net = FINE[name]()
        assert first(net) in seen(net, *classes()).captured


def trace(net: nn.Module) -> list[Any]:
    """Everything about a run that anybody could look at."""
    plain = [
        vars(module).get(name) for module in net.modules() for name in ("state", "memory", "calls", "log", "merged")
    ]
    return [
        [value.detach().double().numpy().tobytes() for value in net.state_dict().values()],
        [None if part.grad is None else part.grad.double().numpy().tobytes() for part in net.parameters()],
        [module.training for module in net.modules()],
        [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()],
        torch.get_rng_state().numpy().tobytes(),
        str(np.random.get_state()),
        random.getstate(),
        str(plain),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
    ]


def train(make: Callable[[], nn.Module], layer: str | None) -> tuple[list[Any], Tunneller | None]:
    """Four epochs, in which every answer is tried and none adopted."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    net = make()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(*classes(80)), batch_size=16, shuffle=True)
    tunneller, traces = None, []
    if layer is not None:
        options: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 1e9, "sync": True, "layer": layer}
        pool = FakePool(Liar("random"))
        tunneller = Tunneller(
            net, optimizer=optimizer, validate=lambda: 0.0, mode="min", client=pool.client(), **options
        )
    for _ in range(4):
        net.train()
        for inputs, targets in tunneller.watch(loader) if tunneller else loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs).float(), targets).backward()
            optimizer.step()
        if tunneller:
            tunneller.step(STALLED)
        traces.append(trace(net))
    return traces, tunneller


@pytest.mark.parametrize("name", [*REFUSED, *FINE])
def test_training_is_as_it_would_be_without(name: str) -> None:
    """Bit for bit: weights, gradients, random states, modes, hooks, and what models note down in attributes."""
    make = (REFUSED | FINE)[name]
    plain, _ = train(make, None)
    traced, tunneller = train(make, "auto")
    assert tunneller is not None
    tunneller.close()
    assert traced == plain


def test_a_model_that_does_something_else_by_then_is_refused() -> None:
    """The branch that the model takes changed between the stall and the answer."""
    torch.manual_seed(0)
    net = Made(
        lambda net, x: net.b(net.a(x).relu() if net.calm else net.a(x).tanh()), a=nn.Linear(6, 8), b=nn.Linear(8, 4)
    )
    net.calm = True  # type: ignore[assignment]

    def answer(snapshot: Any, spec: Any) -> Any:
        net.calm = False  # type: ignore[assignment]
        return Liar("random")(snapshot, spec)

    scores = iter(range(100, 0, -1))
    tunneller = Tunneller(
        net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        validate=lambda: float(next(scores)),
        mode="min",
        client=FakePool(answer).client(),
        data=classes(),
        layer="a",
        patience=1,
        sync=True,
    )
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    tunneller.close()
    assert [event.kind for event in tunneller.history if event.kind in ("adopted", "refused")] == ["refused"]
