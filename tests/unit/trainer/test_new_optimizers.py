"""An optimizer that takes over in mid-run is noticed, and can be handed over."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks

from tests.unit.trainer.fakes import FakePool
from tests.unit.trainer.test_swapped_weights import Loop, X, Y, helpful
from trainer import Tunneller
from trainer.errors import OptimizerError

TOLD = "tunneller.use_optimizer(optimizer)"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if TOLD in record.getMessage()]


def test_another_optimizer_is_noticed_once_and_nothing_is_adopted(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    loop.train()
    loop.tunneller.step(1.0)
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), 1e-3, momentum=0.9)
    for _ in range(4):
        loop.train()
        loop.tunneller.step(1.0)
    summary = loop.tunneller.close(polish=True)
    assert len(warnings(caplog)) == 1
    assert "(SGD)" in warnings(caplog)[0]
    assert summary.jobs == summary.adopted == 0


def test_what_is_out_when_another_takes_over_is_not_adopted() -> None:
    torch.manual_seed(0)
    model, pool = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), FakePool(helpful, held=True)
    optimizer: Optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def train() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        optimizer.step()
        return loss.item()

    made = Tunneller(
        model,
        optimizer=optimizer,
        validate=lambda: nn.functional.cross_entropy(model(X), Y).item(),
        mode="min",
        client=pool.client(),
        data=(X, Y),
        radius=10.0,
        patience=1,
    )
    for _ in range(3):
        train()
        made.step(1.0)
    assert pool.submitted.wait(10.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    train()
    pool.release.set()
    assert made._worker.idle.wait(10.0)
    weight = model[2].weight.detach().clone()
    assert not made.step(1.0)
    assert made.close().adopted == 0
    assert torch.equal(model[2].weight, weight)


def test_one_that_is_handed_over_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    loop.train()
    loop.tunneller.step(loop.validate())
    old, loop.optimizer = loop.optimizer, torch.optim.SGD(loop.model.parameters(), 1e-3, momentum=0.9)
    loop.tunneller.use_optimizer(loop.optimizer)
    assert not old._optimizer_step_post_hooks  # type: ignore[attr-defined]
    adopted = False
    for _ in range(6):
        loop.train()
        if loop.tunneller.step(loop.validate()):
            adopted = True
            assert not loop.optimizer.state.get(loop.model[2].weight, {}).get("momentum_buffer", torch.zeros(1)).any()
    assert adopted
    assert loop.tunneller._journal.gd_step == 7
    loop.tunneller.close()
    assert not warnings(caplog)
    assert not loop.optimizer._optimizer_step_post_hooks  # type: ignore[attr-defined]


def test_what_the_new_one_does_not_hold_may_not_move() -> None:
    """A head that was trained first, and is left as it is then."""
    loop = Loop()
    loop.train()
    loop.tunneller.step(1.0)
    loop.optimizer = torch.optim.SGD(loop.model[0].parameters(), 1e-3)
    loop.tunneller.use_optimizer(loop.optimizer)
    for _ in range(4):
        loop.train()
        loop.tunneller.step(1.0)
    assert loop.tunneller.close().jobs == 0
    assert "the optimizer does not hold its weight" in str(loop.tunneller.history[-1].detail)


def test_what_is_no_optimizer_is_not_taken() -> None:
    loop = Loop()
    with pytest.raises(OptimizerError):
        loop.tunneller.use_optimizer("adam")
    loop.tunneller.close()


class Wrapping(Optimizer):
    """Steps another one, of the same parameters, as SAM does."""

    def __init__(self, base: Optimizer, *, steps_itself: bool = False) -> None:
        super().__init__(base.param_groups, {})
        self.optimizer, self.steps_itself = base, steps_itself

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        if not self.steps_itself:
            self.optimizer.step()


def others(loop: Loop) -> Iterator[Optimizer]:
    """Optimizers whose steps are none of the tunneller's business, or that it knows by the one inside."""
    elsewhere = torch.nn.Linear(2, 2)
    elsewhere(torch.ones(1, 2)).sum().backward()
    yield torch.optim.SGD(elsewhere.parameters(), 0.1)
    yield Wrapping(loop.optimizer)
    yield Wrapping(loop.optimizer, steps_itself=True)


@pytest.mark.parametrize("number", range(3))
def test_others_do_not_disturb(number: int, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    other = list(others(loop))[number]
    for _ in range(4):
        other.step()
        loop.tunneller.step(loop.validate())
    assert loop.tunneller.close().adopted
    assert not warnings(caplog)


def test_two_that_take_turns_do_not_disturb(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    pair = [loop.optimizer, torch.optim.Adam(loop.model.parameters(), 1e-4)]
    for _ in range(4):
        for loop.optimizer in pair:
            loop.train()
        loop.tunneller.step(loop.validate())
    assert loop.tunneller.close().adopted
    assert not warnings(caplog)


def test_where_the_old_one_steps_again_tunnels_go_on(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    old, new = loop.optimizer, torch.optim.Adam(loop.model.parameters(), 1e-4)
    for loop.optimizer in (old, new, new, old, old, old):
        loop.train()
        loop.tunneller.step(loop.validate())
    assert loop.tunneller.close().adopted
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("leave", [lambda loop: loop.tunneller.close(), lambda loop: setattr(loop, "tunneller", None)])
def test_no_optimizer_is_heard_after_the_end(leave: Callable[[Loop], object]) -> None:
    gc.collect()
    known = len(_global_optimizer_post_hooks)
    loop = Loop()
    assert len(_global_optimizer_post_hooks) == known + 1
    leave(loop)
    gc.collect()
    assert len(_global_optimizer_post_hooks) == known


def test_models_of_other_optimizers_are_let_go() -> None:
    """A tunneller that nobody closes holds no optimizer that moves none of its parameters, nor its model."""
    loop = Loop()
    loop.train()
    loop.tunneller.step(loop.validate())

    def other() -> list[weakref.ref[Any]]:
        model = nn.Linear(6, 4)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            model(X).sum().backward()
            optimizer.step()
        return [weakref.ref(model), weakref.ref(optimizer)]

    gone = [one for _ in range(5) for one in other()]
    gc.collect()
    assert not any(one() for one in gone)
    loop.tunneller.close()


def test_one_that_takes_up_the_parameters_later_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """What an optimizer moves is looked at anew after each check, also where it is gone by the next."""
    loop = Loop()
    elsewhere = nn.Parameter(torch.zeros(1, requires_grad=True))
    elsewhere.grad = torch.ones(1)
    loop.optimizer = torch.optim.SGD([elsewhere], 1e-3)
    loop.optimizer.step()
    loop.tunneller.step(1.0)
    loop.optimizer.add_param_group({"params": list(loop.model.parameters())})
    loop.train()
    del loop.optimizer
    gc.collect()
    loop.tunneller.step(1.0)
    assert len(warnings(caplog)) == 1
    loop.tunneller.close()
