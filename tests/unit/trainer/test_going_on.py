"""A tunneller that goes on from its state: the same samples, and the jobs that were out."""

import json
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.unit.trainer.fakes import FakePool, unchanged
from trainer import Tunneller

EPOCHS, BROKEN_AFTER = 6, 3


class Loop:
    """A small training run with a loader that shuffles; `state` is all that a checkpoint holds, as JSON where it can."""

    def __init__(self, pool: FakePool, **options: Any) -> None:
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(120, 5, generator=generator)
        self.targets = (self.inputs @ torch.randn(5, 3, generator=generator)).argmax(dim=1)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.shuffle = torch.Generator().manual_seed(1)
        loader = DataLoader(TensorDataset(self.inputs, self.targets), 8, shuffle=True, generator=self.shuffle)
        settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "keep": 40, "mode": "min"}
        settings |= {"validate": self.errors, "run": "one"} | options
        self.tunneller = Tunneller(self.model, optimizer=self.optimizer, client=pool.client(), **settings)
        self.batches = self.tunneller.watch(loader)

    def errors(self) -> float:
        with torch.no_grad():
            return float((self.model(self.inputs).argmax(dim=1) != self.targets).float().mean())

    def epoch(self, score: float = 1.0) -> bool:
        for inputs, targets in self.batches:
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(inputs), targets).backward()
            self.optimizer.step()
        return self.tunneller.step(score)

    def state(self) -> dict[str, Any]:
        return {
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "shuffle": self.shuffle.get_state(),
            "tunneller": json.dumps(self.tunneller.state_dict()),
        }

    def go_on(self, state: dict[str, Any]) -> "Loop":
        self.model.load_state_dict(state["model"])
        self.shuffle.set_state(state["shuffle"])
        self.tunneller.load_state_dict(json.loads(state["tunneller"]))
        return self


def test_a_resumed_run_sends_the_same_samples() -> None:
    """Under sync: where the random choice was is in the state, so that every later snapshot is the same to the bit."""
    whole, before, after = FakePool(unchanged), FakePool(unchanged), FakePool(unchanged)
    loop = Loop(whole, sync=True)
    for _ in range(EPOCHS):
        loop.epoch()
    broken = Loop(before, sync=True)
    for _ in range(BROKEN_AFTER):
        broken.epoch()
    resumed = Loop(after, sync=True).go_on(broken.state())
    for _ in range(EPOCHS - BROKEN_AFTER):
        resumed.epoch()
    sent = [snapshot.to_bytes() for pool in (before, after) for snapshot in pool.snapshots]
    assert len(after.snapshots) > 1
    assert sent == [snapshot.to_bytes() for snapshot in whole.snapshots]
    for one in (loop, broken, resumed):
        one.tunneller.close()
