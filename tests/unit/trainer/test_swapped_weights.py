"""A loop that puts its own weights back undoes an adoption: that is noticed, said once, and not counted as a gain."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, Tensors, unchanged
from trainer import Tunneller

X = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(100) % 4


def helpful(snapshot: Snapshot, spec: JobSpec) -> Tensors:
    """The hand-made classes' own weights, a few steps nearer by each job."""
    weight = torch.from_numpy(snapshot.weight.copy()).requires_grad_()
    inputs, targets = torch.from_numpy(snapshot.inputs.copy()), torch.from_numpy(snapshot.targets.copy())
    optimizer = torch.optim.SGD([weight], 0.5)
    with torch.enable_grad():
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.multi_margin_loss(inputs @ weight.T, targets).backward()
            optimizer.step()
    return unchanged(snapshot, spec) | {"weight": weight.detach().numpy()}


class Loop:
    """A loop of full batches, with averaged weights beside."""

    def __init__(self, momentum: float = 0.0) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3, momentum=momentum)
        self.averaged = [one.detach().clone() for one in self.model.parameters()]
        self.tunneller = Tunneller(
            self.model,
            optimizer=self.optimizer,
            validate=self.validate,
            mode="min",
            client=FakePool(helpful).client(),
            data=(X, Y),
            radius=10.0,
            patience=1,
            cooldown=0,
            min_delta=1e-3,
            sync=True,
        )

    def validate(self) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(self.model(X), Y))

    def train(self) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(X), Y).backward()
        self.optimizer.step()
        with torch.no_grad():
            for mean, one in zip(self.averaged, self.model.parameters(), strict=True):
                mean.lerp_(one, 0.5)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The averaged weights in place of the trained ones, copied in and out."""
        kept = [one.detach().clone() for one in self.model.parameters()]
        self._write(self.averaged)
        try:
            yield
        finally:
            self._write(kept)

    @contextmanager
    def swapped_by_reference(self) -> Iterator[None]:
        """The same without a copy."""
        kept = [one.data for one in self.model.parameters()]
        for one, mean in zip(self.model.parameters(), self.averaged, strict=True):
            one.data = mean
        try:
            yield
        finally:
            for one, values in zip(self.model.parameters(), kept, strict=True):
                one.data = values

    def _write(self, values: list[Tensor]) -> None:
        for one, value in zip(self.model.parameters(), values, strict=True):
            one.data.copy_(value)

    def count(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.tunneller.history)


@pytest.mark.parametrize("swap", [Loop.swapped, Loop.swapped_by_reference])
def test_what_a_swap_undoes_counts_as_undone(swap: Callable[[Loop], object], caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    for _ in range(6):
        loop.train()
        with swap(loop):  # type: ignore[attr-defined]
            loop.tunneller.step(loop.validate())
    summary = loop.tunneller.close()
    assert loop.count("undone") == loop.count("adopted") > 0
    assert (summary.adopted, summary.gained) == (0, 0.0)
    assert summary.declined["adopted, and set back by the loop"] == loop.count("undone")
    assert "step()" in summary.advice
    told = [record.getMessage() for record in caplog.records if "outside of the swap" in record.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_stands_is_left_in_peace(momentum: float, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(momentum)
    for _ in range(6):
        loop.train()
        with loop.swapped():
            score = loop.validate()
        loop.tunneller.step(score)
    summary = loop.tunneller.close()
    assert loop.count("undone") == 0
    assert summary.adopted == loop.count("adopted") > 0
    assert summary.gained > 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_best_checkpoint_that_is_loaded_before_the_end_undoes_the_last_adoption() -> None:
    loop = Loop()
    kept = dict[str, Tensor]()
    while loop.count("adopted") == 0:
        loop.train()
        kept = {name: value.clone() for name, value in loop.model.state_dict().items()}
        loop.tunneller.step(loop.validate())
    loop.model.load_state_dict(kept)
    assert loop.tunneller.close().adopted == 0


def test_weights_that_are_scaled_or_clipped_stand() -> None:
    loop = Loop()
    for _ in range(6):
        loop.train()
        adopted = loop.tunneller.step(loop.validate())
        if adopted:
            with torch.no_grad():
                loop.model[2].weight.mul_(0.98).clamp_(-5.0, 5.0)
    loop.train()
    assert loop.tunneller.close().adopted == loop.count("adopted") > 0


def test_of_answers_in_a_row_each_stands_for_itself() -> None:
    """The second adoption moves what the first one moved, and undoes nothing."""
    loop = Loop()
    for _ in range(8):
        loop.tunneller.step(loop.validate())  # no training in between
    summary = loop.tunneller.close()
    assert summary.adopted == loop.count("adopted") > 1


def test_nothing_stays_at_the_optimizer() -> None:
    loop = Loop()
    loop.tunneller.close()
    assert not loop.optimizer._optimizer_step_pre_hooks  # type: ignore[attr-defined]


def test_nothing_gained_is_not_less_than_nothing() -> None:
    loop = Loop()
    assert str(loop.tunneller.close().gained) == "0.0"
