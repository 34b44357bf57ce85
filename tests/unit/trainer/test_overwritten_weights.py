"""Weights that are kept elsewhere and written over adopted ones undo an adoption: noticed, said, not tried again."""

from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.unit.trainer.fakes import FakePool
from tests.unit.trainer.test_swapped_weights import X, Y, helpful
from trainer import Summary, Tunneller
from trainer.adoption import parameters

STALLED = 1.0
"""A score that never improves."""


class Masters(Optimizer):
    """SGD on copies in float32, as mixed-precision optimizers do it."""

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-2) -> None:
        super().__init__(parameters, {"lr": lr})
        self.copies = [[one.detach().clone() for one in group["params"]] for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group, copies in zip(self.param_groups, self.copies, strict=True):
            for one, copy in zip(group["params"], copies, strict=True):
                copy.sub_(one.grad, alpha=group["lr"])
                one.copy_(self.written(copy, one))

    def written(self, copy: Tensor, one: Tensor) -> Tensor:
        return copy


class Slow(Masters):
    """Slow weights, to which the model's are drawn back."""

    def written(self, copy: Tensor, one: Tensor) -> Tensor:
        return copy.lerp(one, 0.1)


def hooked(parameters: Iterable[Tensor]) -> Optimizer:
    """A plain one with a hook of the loop's own that keeps a copy."""
    optimizer = torch.optim.SGD(parameters, 1e-2)
    held = [one for group in optimizer.param_groups for one in group["params"]]
    kept = [one.detach().clone() for one in held]

    def write(*_: Any) -> None:
        for one, copy in zip(held, kept, strict=True):
            copy.sub_(one.grad, alpha=1e-2)  # type: ignore[arg-type]
            one.data.copy_(copy)

    optimizer.register_step_post_hook(write)
    return optimizer


class Loop:
    """A loop of full batches, each a stall; `after` is called after each step of the optimizer."""

    def __init__(
        self, optimizer: Callable[[Any], Optimizer], after: Callable[[nn.Module], object] | None = None
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.optimizer, self.after = optimizer(self.model.parameters()), after
        settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 1e-3, "sync": True, "radius": 10.0}
        settings |= {"validate": self.validate, "mode": "min", "data": (X, Y), "client": FakePool(helpful).client()}
        self.tunneller = Tunneller(self.model, optimizer=self.optimizer, **settings)

    def validate(self) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(self.model(X), Y))

    def train(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(X), Y).backward()
            self.optimizer.step()
            if self.after is not None:
                self.after(self.model)

    def run(self, checks: int = 8, steps: int = 1) -> Summary:
        for _ in range(checks):
            self.train(steps)
            self.tunneller.step(STALLED)
        self.train(steps)
        return self.tunneller.close(polish=True)

    def run_until(self, kind: str) -> None:
        for _ in range(20):
            self.train()
            self.tunneller.step(STALLED)
            if self.count(kind):
                return
        raise AssertionError(f"nothing was {kind}")

    def count(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.tunneller.history)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("optimizer", [Masters, Slow, hooked])
def test_an_optimizer_that_keeps_weights_undoes_an_adoption(
    optimizer: Callable[[Any], Optimizer], steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is undone after the first step, counts for nothing, is said once with the cure, and is the last."""
    loop = Loop(optimizer)
    summary = loop.run(steps=steps)
    assert loop.count("undone") == loop.count("adopted") == 1
    assert (summary.adopted, summary.gained) == (0, 0.0)
    assert summary.declined == {"adopted, and overwritten by the optimizer's own copies": 1}
    assert "not copies of them" in summary.advice
    assert caplog.text.count("tunneller.use_optimizer(optimizer)") == 1


@pytest.mark.parametrize("steps", [1, 3])
def test_a_loop_that_writes_averaged_weights_after_each_step_undoes_adoptions(
    steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Once may be a checkpoint that was loaded; after the second time nothing is tunnelled any more."""
    averaged: list[Tensor] = []

    def average(model: nn.Module) -> None:
        averaged[:] = averaged or [one.detach().clone() for one in model.parameters()]
        for mean, one in zip(averaged, model.parameters(), strict=True):
            one.data.copy_(mean.lerp_(one.data, 0.05))

    loop = Loop(lambda params: torch.optim.SGD(params, 1e-3), average)
    summary = loop.run(12, steps)
    assert loop.count("undone") == loop.count("adopted") == 2
    assert (summary.adopted, summary.gained) == (0, 0.0)
    assert caplog.text.count("after the optimizer's steps") == 1


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda params: torch.optim.SGD(params, 1e-2),
        lambda params: torch.optim.SGD(params, 1.0, momentum=0.9),
        lambda params: torch.optim.Adam(params, 1e-2),
        lambda params: torch.optim.AdamW(params, 1e-2, weight_decay=1.0),
        lambda params: torch.optim.RMSprop(params, 1e-2),
    ],
)
@pytest.mark.parametrize("steps", [1, 3])
def test_optimizers_that_only_step_undo_nothing(optimizer: Callable[[Any], Optimizer], steps: int) -> None:
    """Large steps, momentum and decay leave most of a change where it is."""
    loop = Loop(optimizer)
    loop.run(steps=steps)
    assert loop.count("adopted") > 0
    assert loop.count("undone") == 0


def test_tunnels_go_on_with_another_optimizer() -> None:
    """One that is handed over is trusted anew."""
    loop = Loop(Masters)
    loop.run_until("undone")
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), 1e-3)
    loop.tunneller.use_optimizer(loop.optimizer)
    assert loop.run().adopted > 0
    assert loop.count("undone") == 1


def test_looks_end_with_the_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adoption is read before and after the first step and before the second one, and never again."""
    loop = Loop(lambda params: torch.optim.SGD(params, 1e-3))
    loop.run_until("adopted")
    read = Mock(side_effect=parameters.read)
    monkeypatch.setattr(parameters, "read", read)
    loop.train(10)
    assert read.call_count == 3
    loop.tunneller.close()
