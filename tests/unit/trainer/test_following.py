"""With `layer="auto"` the final layer follows hidden ones where it may move, and nothing follows what follows."""

import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.conftest import wait_for
from tests.unit.trainer.fakes import FakePool, Tensors, unchanged
from trainer import Tunneller

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(200) % 4
ENOUGH = 60
"""Jobs after which the pool breaks down, so that a loop without end ends all the same."""
CHECKS, PATIENCE, COOLDOWN = 20, 5, 2


class Own(nn.Linear):
    """A layer whose class has a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def network(head: type[nn.Linear] = nn.Linear, *behind: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), head(8, 4), *behind)


def free(model: nn.Sequential) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def frozen(model: nn.Sequential) -> nn.Sequential:
    model[4].requires_grad_(requires_grad=False)
    return model


def hooked(model: nn.Sequential) -> nn.Sequential:
    model[4].weight.register_hook(lambda gradient: gradient.clamp(-1, 1))
    return model


def normed(model: nn.Sequential) -> nn.Sequential:
    nn.utils.parametrizations.weight_norm(model[4])
    return model


HELD: dict[str, Callable[[], tuple[nn.Sequential, list[nn.Parameter]]]] = {
    "frozen": lambda: ((model := frozen(network())), free(model)),
    "frozen, before a softmax": lambda: ((model := frozen(network(nn.Linear, nn.LogSoftmax(1)))), free(model)),
    "not in the optimizer": lambda: ((model := network()), list(model[:4].parameters())),
    "its own forward": lambda: ((model := network(Own)), free(model)),
    "a gradient hook": lambda: ((model := hooked(network())), free(model)),
    "weight norm": lambda: ((model := normed(network())), free(model)),
}


def whole(model: nn.Sequential) -> tuple[nn.Sequential, list[nn.Parameter]]:
    return model, list(model.parameters())


class Loop:
    """A loop whose score stands still, before a pool of which one can see at what layers it was asked, and when."""

    def __init__(self, model: nn.Sequential, parameters: list[nn.Parameter], **options: Any) -> None:
        self.model, self.pool = model, FakePool(self.solve)
        self.optimizer = torch.optim.Adam(parameters, 0.01)
        settings: dict[str, Any] = {"validate": lambda: 0.0, "mode": "min", "layer": "auto", "radius": 1.0}
        settings |= {"patience": PATIENCE, "cooldown": COOLDOWN, "sync": True, "capture_s": 10.0}
        self.tunneller = Tunneller(model, optimizer=self.optimizer, client=self.pool.client(), **settings | options)

    def solve(self, snapshot: Snapshot, spec: JobSpec) -> Tensors:
        self.pool.down = len(self.pool.specs) >= ENOUGH
        return unchanged(snapshot, spec)

    def train(self, checks: int = CHECKS, *, project: Callable[[], object] = lambda: None) -> None:
        for _ in range(checks):
            self.tunneller.observe(X, Y)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(X), Y).backward()
            self.optimizer.step()
            project()
            self.tunneller.step(1.0)
            self.back()

    def kinds(self) -> Counter[str]:
        return Counter(event.kind for event in self.tunneller.history)

    def back(self) -> None:
        """Wait until no job is out."""
        wait_for(lambda: self.kinds()["answered"] + self.kinds()["failed"] >= self.kinds()["stall"])

    def at(self) -> list[int]:
        """The checks at which there was something to send."""
        return [event.step for event in self.tunneller.history if event.kind in {"stall", "polish"}]

    def layers(self) -> list[str]:
        """The layers that jobs were about."""
        told = [event.detail or "" for event in self.tunneller.history if event.kind == "submitted"]
        return [detail.split("'")[1] for detail in told]


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_where_the_head_may_not_move_a_stall_is_one_job(
    held: Callable[[], tuple[nn.Sequential, Any]], sync: bool
) -> None:
    """A step ends, and the next job waits for the next stall."""
    loop = Loop(*held(), sync=sync)
    with loop.tunneller:
        loop.train()
    assert loop.at() == [6, 13, 20]
    assert set(loop.layers()) == {"0", "2"}
    assert len(loop.layers()) == 3


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_a_last_tunnel_has_an_end(held: Callable[[], tuple[nn.Sequential, Any]], sync: bool) -> None:
    """Up to three jobs, each a polish; long before its time is up."""
    loop = Loop(*held(), sync=sync, patience=100)
    loop.train(3)
    begun = time.monotonic()
    summary = loop.tunneller.close(polish=True, timeout=30.0)
    assert time.monotonic() - begun < 15.0
    assert summary.jobs == summary.polishes == (1 if sync else 3)


def test_a_head_that_is_frozen_in_mid_run_follows_no_more() -> None:
    loop = Loop(*whole(network()), patience=1, cooldown=0)
    with loop.tunneller:
        loop.train(5)
        assert loop.layers().count("4") >= 2
        frozen(loop.model)
        loop.train(5)
        assert max(Counter(loop.at()[-5:]).values()) == 1
        assert set(loop.layers()[-5:]) == {"0", "2"}


def test_a_head_that_the_loop_clips_follows_no_more() -> None:
    """One that a habit of the loop's takes out between two stalls."""
    loop = Loop(*whole(network()), patience=1, cooldown=0)

    def clip() -> None:
        loop.model[4].weight.data.clamp_(-0.05, 0.05)

    with loop.tunneller:
        loop.train(4)
        loop.train(6, project=clip)
        assert set(loop.layers()[-3:]) == {"0", "2"}
        assert max(Counter(loop.at()[-3:]).values()) == 1


def test_a_head_that_may_move_follows_each_hidden_layer_once() -> None:
    """At stalls and in the last tunnel, where both are tries of that one; a further try is not followed."""
    loop = Loop(*whole(network()))
    loop.train()
    assert all(follower == "4" for hidden, follower in pairs(loop) if hidden != "4")
    assert set(loop.layers()) == {"0", "2", "4"}
    assert max(Counter(loop.at()).values()) == 2
    stalls = len(loop.layers())
    summary = loop.tunneller.close(polish=True, timeout=30.0)
    assert loop.layers()[stalls + 1 :] == ["4"]
    assert summary.polishes == 2
    assert summary.stalls == stalls


def pairs(loop: Loop) -> list[tuple[str, str]]:
    """The layers of jobs that came one after the other at one check."""
    jobs = list(zip(loop.at(), loop.layers(), strict=True))
    return [(one, then) for (at, one), (later, then) in pairwise(jobs) if at == later]


def test_a_last_tunnel_is_at_most_three_jobs_where_the_head_follows() -> None:
    loop = Loop(*whole(network()), sync=False, patience=100)
    loop.train(3)
    summary = loop.tunneller.close(polish=True, timeout=30.0)
    assert summary.jobs == summary.polishes == 3
    assert Counter(loop.layers())["4"] == 1


def test_a_head_that_is_not_to_be_trusted_does_not_follow() -> None:
    """Once the live model with its answer in it did not do what the job promised, no stall is spent on it again."""
    loop = Loop(*whole(network()), patience=1, cooldown=0)
    with loop.tunneller:
        loop.train(3)
        loop.tunneller._turns.distrusted["4"] = "it is something else than it seemed"
        known = len(loop.layers())
        loop.train(4)
        assert loop.kinds()["failed"] == 0
        assert set(loop.layers()[known:]) == {"0", "2"}
