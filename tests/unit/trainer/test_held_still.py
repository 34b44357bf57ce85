"""What a loop holds still by other means than `requires_grad` no answer moves, as long as it is held."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.conftest import wait_for
from tests.unit.trainer.fakes import FakePool, Tensors
from trainer import Tunneller

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(200, 6, generator=GENERATOR)
Y = (X @ torch.randn(6, 4, generator=GENERATOR)).argmax(dim=1)
STALLED = 1.0
Groups = list[dict[str, Any]]
OPTIMIZERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "Adam": lambda groups: torch.optim.Adam(groups, 1e-2),
    "SGD": lambda groups: torch.optim.SGD(groups, 0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, 1e-2),
}


def descended(snapshot: Snapshot, spec: JobSpec) -> Tensors:
    """Some steps of Adam on all that a job may move, each within its box."""
    layers = [snapshot, *snapshot.tail]
    boxes = [box for box in (spec.radius, *spec.tail_radii(len(snapshot.tail))) for _ in range(2)]
    start = [torch.tensor(part) for layer in layers for part in (layer.weight, layer.bias)]
    parts = [one.clone().requires_grad_() for one in start]
    optimizer = torch.optim.Adam(parts, 0.02)
    for _ in range(30):
        values = torch.from_numpy(snapshot.inputs)
        for number in range(0, len(parts), 2):
            values = nn.functional.linear(values.relu() if number else values, parts[number], parts[number + 1])
        optimizer.zero_grad()
        nn.functional.cross_entropy(values, torch.from_numpy(snapshot.targets)).backward()
        optimizer.step()
        with torch.no_grad():
            for one, begun, box in zip(parts, start, boxes, strict=True):
                one.copy_(begun + (one - begun).clamp(-box, box))
    prefixes = ["", *(f"tail.{number}." for number in range(len(snapshot.tail)))]
    names = [f"{prefix}{part}" for prefix in prefixes for part in ("weight", "bias")]
    return {name: one.detach().numpy() for name, one, box in zip(names, parts, boxes, strict=True) if box}


class Loop:
    """A loop of full batches that holds some layers still in its own way, as long as `holding`."""

    def __init__(
        self,
        *held: int,
        hold: Callable[["Loop"], object] = lambda _: None,
        rate: float | Tensor | None = None,
        made: Callable[[Groups], torch.optim.Optimizer] = OPTIMIZERS["Adam"],
        body: Callable[[], AbstractContextManager[object]] = nullcontext,
        prepare: Callable[[nn.Sequential], object] = lambda _: None,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        prepare(self.model)
        self.held = [one for number in held for one in self.model[number].parameters()]
        others = [one for one in self.model.parameters() if all(one is not other for other in self.held)]
        still = {"params": self.held} | ({} if rate is None else {"lr": rate})
        self.optimizer, self.pool = made([{"params": others}, still]), FakePool(descended)
        self.hold, self.body, self.holding, self.clears = hold, body, True, False
        self.start = [one.detach().clone() for one in self.held]
        settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "sync": True, "mode": "min"}
        settings |= {"validate": self.validate, "client": self.pool.client(), "radius": 0.3, "capture_s": 10.0}
        settings["layer"] = str(held[0])
        self.tunneller = Tunneller(self.model, optimizer=self.optimizer, **settings | options)

    def validate(self) -> float:
        with torch.no_grad():
            return nn.functional.cross_entropy(self.model(X), Y).item()

    def train(self) -> None:
        self.tunneller.observe(X, Y)
        self.optimizer.zero_grad()
        with self.body() if self.holding else nullcontext():
            features = self.model[:4](X)
        nn.functional.cross_entropy(self.model[4](features), Y).backward()
        if self.holding:
            self.hold(self)
        self.optimizer.step()
        if self.clears:
            self.optimizer.zero_grad()

    def run(self, checks: int = 6) -> None:
        for _ in range(checks):
            self.train()
            self.tunneller.step(STALLED)
            wait_for(lambda: self.count("answered") == self.count("stall"))

    def count(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.tunneller.history)

    @property
    def stayed(self) -> bool:
        """Whether what is held has the bits that it had in the beginning."""
        return all(map(torch.equal, self.start, self.held))


def cancel(loop: Loop) -> None:
    """As DINO does with its last layer's."""
    for one in loop.held:
        one.grad = None


def cancel_weight(loop: Loop) -> None:
    loop.held[0].grad = None


def zero(loop: Loop) -> None:
    for one in loop.held:
        one.grad.zero_()  # type: ignore[union-attr]


RATE, GRADIENT = "the learning rate of its weight is 0", "no gradient comes to its weight"
WAYS: dict[str, tuple[tuple[int, ...], dict[str, Any], str]] = {
    "a rate of 0": ((4,), {"rate": 0.0}, RATE),
    "a rate of 0 that is a tensor": ((4,), {"rate": torch.tensor(0.0)}, RATE),
    "gradients that are taken away": ((4,), {"hold": cancel}, GRADIENT),
    "gradients of 0": ((4,), {"hold": zero}, GRADIENT),
    "a hidden rate of 0": ((2,), {"rate": 0.0}, RATE),
    "hidden gradients that are taken away": ((2,), {"hold": cancel}, GRADIENT),
    "hidden gradients of 0": ((2,), {"hold": zero}, GRADIENT),
    "a body of rate 0": ((0, 2), {"rate": 0.0}, RATE),
    "a body without gradients": ((0, 2), {"body": torch.no_grad}, GRADIENT),
}


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_layer_that_a_loop_holds_still_is_not_tunnelled(
    way: str, sync: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused by name at the first stall, with reason and cure, and in the last tunnel."""
    held, how, told = WAYS[way]
    loop = Loop(*held, **how, sync=sync)
    loop.run()
    summary = loop.tunneller.close(polish=True, timeout=20.0)
    assert loop.stayed
    assert summary.jobs == 0
    assert told in summary.advice
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert f"'{held[0]}'" in warnings[0].partition("not tunnelled: ")[0]
    assert told in warnings[0]
    assert warnings[0].endswith("or choose another layer")


@pytest.mark.parametrize("options", [{}, {"sync": False}, {"radius": None}], ids=["sync", "in time", "whole"])
@pytest.mark.parametrize("way", WAYS)
def test_the_policy_does_without_what_a_loop_holds_still(
    way: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Other layers are tunnelled, and none that is held moves along; all that are held are told of at once."""
    held, how, _ = WAYS[way]
    loop = Loop(*held, **how, **options, layer="auto")
    loop.run()
    assert loop.tunneller.close(polish=True, timeout=20.0).adopted > 0
    assert loop.stayed
    assert len(caplog.records) == 1
    assert all(f"'{number}'" in caplog.records[0].getMessage() for number in held)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clears", [True, False])
@pytest.mark.parametrize("layer", ["4", "auto"])
def test_gradients_that_are_taken_away_before_each_step_are_missed(layer: str, clears: bool, optimizer: str) -> None:
    """Whatever optimizer steps, and also where the loop leaves no gradients behind after its steps."""
    loop = Loop(4, hold=cancel, made=OPTIMIZERS[optimizer], layer=layer)
    loop.clears = clears
    loop.run()
    loop.tunneller.close(polish=True, timeout=20.0)
    assert loop.stayed


def test_a_weight_alone_may_be_held_still() -> None:
    loop = Loop(4, hold=cancel_weight)
    loop.run()
    assert torch.equal(loop.start[0], loop.held[0])
    assert not torch.equal(loop.start[1], loop.held[1])
    assert not loop.pool.snapshots


def test_a_layer_that_is_held_from_some_time_on_is_left_alone_from_then() -> None:
    """Moments that an optimizer keeps of gradients long gone push nothing; a look at it as it is held is enough."""
    loop = Loop(4, hold=cancel)
    loop.holding = False
    loop.run(3)
    loop.holding = True
    loop.run(1)
    loop.start, known = [one.detach().clone() for one in loop.held], loop.count("submitted")
    loop.run()
    assert loop.stayed
    assert loop.count("submitted") == known > 0


@pytest.mark.parametrize("way", [{"rate": 0.0}, {"hold": cancel}, {"hold": zero}])
@pytest.mark.parametrize("layer", ["4", "auto"])
def test_a_layer_that_moves_again_is_tunnelled_again(way: dict[str, Any], layer: str) -> None:
    """As at the end of a warm-up of one group, or once the first epochs of a frozen head are over."""
    loop = Loop(4, **way, layer=layer)
    loop.run()
    assert loop.stayed
    loop.holding, loop.optimizer.param_groups[1]["lr"] = False, 0.01
    known = len(loop.pool.snapshots)
    loop.run()
    assert 4 in {len(snapshot.weight) for snapshot in loop.pool.snapshots[known:]}
    assert "4" not in loop.tunneller._movable.kept


def scaled(loop: Loop, share: float) -> None:
    for group in loop.optimizer.param_groups:
        group["lr"] = share * 0.01


@pytest.mark.parametrize("layer", ["4", "auto", None])
def test_a_warm_up_from_a_rate_of_0_holds_nothing(layer: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """A tunneller is made while all rates are 0, and tunnels from the first stall on."""
    loop = Loop(4, rate=0.0, layer=layer)
    for check in range(6):
        scaled(loop, 0.0 if check < 3 else 1.0)
        loop.run(1)
    assert loop.pool.snapshots
    assert "is not tunnelled" not in caplog.text


@pytest.mark.parametrize("layer", ["4", "auto", None])
def test_a_schedule_that_ends_at_a_rate_of_0_holds_nothing(layer: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """The last tunnel comes when all rates are 0 by now, and nothing has moved for some steps."""
    loop = Loop(4, layer=layer, patience=100)
    loop.run(3)
    scaled(loop, 0.0)
    loop.run(3)
    assert loop.tunneller.close(polish=True).adopted > 0
    assert "tunnelled" not in caplog.text


def dead(model: nn.Sequential) -> None:
    model[0].bias.data.fill_(-100.0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_dead_layer_is_not_held_by_anybody(optimizer: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its gradients are 0, and so are those of weights that take in nothing but its zeros: answers revive it."""
    loop = Loop(4, made=OPTIMIZERS[optimizer], prepare=dead, layer="auto")
    loop.run()
    assert 6 in {snapshot.inputs.shape[1] for snapshot in loop.pool.snapshots}
    assert "is not tunnelled" not in caplog.text


def test_an_answer_is_not_adopted_into_a_layer_that_is_held_by_now() -> None:
    """A rate that became 0 while the job was out."""
    loop = Loop(4, sync=False)
    loop.pool.release.clear()
    for _ in range(2):
        loop.train()
        loop.tunneller.step(STALLED)
    loop.optimizer.param_groups[1]["lr"] = 0.0
    loop.start = [one.detach().clone() for one in loop.held]
    loop.pool.release.set()
    wait_for(lambda: loop.count("answered") == 1)
    loop.train()
    loop.tunneller.step(STALLED)
    loop.tunneller.close()
    assert loop.stayed
    assert RATE in str(next(event.detail for event in loop.tunneller.history if event.kind == "rejected"))


def test_what_is_held_still_is_explained() -> None:
    loop = Loop(4, rate=0.0, layer="auto")
    loop.run(2)
    assert RATE in str(loop.tunneller.explain())
    loop.tunneller.close()
