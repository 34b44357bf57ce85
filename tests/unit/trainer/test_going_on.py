"""A tunneller that goes on from its state: the same samples, and the jobs that were out."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.unit.trainer.fakes import FakePool, least_squares, unchanged
from trainer import Tunneller

EPOCHS, BROKEN_AFTER = 6, 3


class Loop:
    """A small training run with a loader that shuffles; `state` is what a checkpoint holds."""

    def __init__(self, pool: FakePool, hidden: int = 16, **options: Any) -> None:
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(120, 5, generator=generator)
        self.targets = (self.inputs @ torch.randn(5, 3, generator=generator)).argmax(dim=1)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.shuffle = torch.Generator().manual_seed(1)
        loader = DataLoader(TensorDataset(self.inputs, self.targets), 8, shuffle=True, generator=self.shuffle)
        settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "keep": 40, "mode": "min"}
        settings |= {"validate": self.errors, "run": "one", "capture_s": 60.0} | options
        self.client = pool.client()
        self.tunneller = Tunneller(self.model, optimizer=self.optimizer, client=self.client, **settings)
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


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "waited 20 s in vain"
        time.sleep(0.005)


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


def until_posted(loop: Loop, pool: FakePool, jobs: int = 1) -> dict[str, Any]:
    """Train until a stall's jobs are out, and give the state then."""
    while not pool.submitted.is_set():
        loop.epoch()
        pool.submitted.wait(0.2)
    eventually(lambda: len(loop.tunneller.state_dict()["jobs"]) == jobs)
    return loop.state()


def crash(loop: Loop) -> None:
    """As far as that can be had within one process: nothing reaches the pool any more."""
    loop.client.close()


def kinds(loop: Loop) -> list[str]:
    return [event.kind for event in loop.tunneller.history]


@pytest.mark.parametrize("fanout", [1, 3])
def test_jobs_that_were_out_are_found_again(fanout: int) -> None:
    """Their answers are judged by validation on the resumed model, and adopted if they help; nothing is posted anew."""
    pool = FakePool(least_squares, held=True)
    first = Loop(pool, radius=100.0, fanout=fanout)
    state = until_posted(first, pool, fanout)
    crash(first)
    pool.release.set()
    resumed = Loop(pool, radius=100.0, fanout=fanout).go_on(state)
    before = resumed.errors()
    resumed.epoch(before)
    eventually(lambda: kinds(resumed).count("answered") == fanout)
    validations = resumed.tunneller.summary().validations
    assert resumed.epoch(resumed.errors())
    assert resumed.errors() < before
    assert resumed.tunneller.summary().validations > validations
    assert kinds(resumed).count("submitted") == kinds(resumed).count("answered") == len(pool.specs) == fanout
    assert "found again" in next(event.detail for event in resumed.tunneller.history if event.kind == "answered")
    assert resumed.tunneller.state_dict()["jobs"] == []
    for loop in (first, resumed):
        loop.tunneller.close()


def test_a_network_that_went_whole_is_found_again() -> None:
    """Every layer's answer is read, in the boxes of a whole network."""
    pool = FakePool(unchanged, held=True)
    first = Loop(pool, layer="auto")
    state = until_posted(first, pool, 3)
    tickets = first.tunneller.state_dict()["jobs"]
    crash(first)
    pool.release.set()
    resumed = Loop(pool, layer="auto").go_on(state)
    assert [ticket["turn"] for ticket in tickets] == ["0 and all behind it"] * 3
    assert resumed.tunneller.state_dict()["jobs"] == tickets
    resumed.epoch()
    eventually(lambda: kinds(resumed).count("answered") == 3)
    for loop in (first, resumed):
        loop.tunneller.close()


def test_with_sync_the_found_answer_is_waited_for() -> None:
    """The first step of a resumed run takes it."""
    pool = FakePool(least_squares, held=True)
    first = Loop(pool, radius=100.0)
    state = until_posted(first, pool)
    crash(first)
    pool.release.set()
    resumed = Loop(pool, radius=100.0, sync=True).go_on(state)
    assert resumed.epoch(resumed.errors())
    for loop in (first, resumed):
        loop.tunneller.close()


def test_an_answer_that_is_there_but_was_not_taken_is_found_again() -> None:
    """A state that is saved between an answer and the next step still names the job."""
    pool = FakePool(least_squares)
    loop = Loop(pool, radius=100.0)
    until_posted(loop, pool)
    eventually(lambda: "answered" in kinds(loop))
    assert len(loop.tunneller.state_dict()["jobs"]) == 1
    loop.tunneller.close()


def test_an_answer_to_a_layer_that_is_gone_is_not_waited_for() -> None:
    """The job is cancelled, the history says why, and training goes on."""
    pool = FakePool(least_squares, held=True)
    first = Loop(pool, radius=100.0)
    state = until_posted(first, pool)
    crash(first)
    resumed = Loop(pool, radius=100.0).go_on(state)
    resumed.model[2].weight.requires_grad_(False)
    resumed.epoch()
    assert any("its layer is another one now" in (event.detail or "") for event in resumed.tunneller.history)
    eventually(lambda: len(pool.cancelled) == 1)
    for loop in (first, resumed):
        loop.tunneller.close()


def test_a_job_that_the_pool_has_lost_is_given_up() -> None:
    """Another pool does not know it: the next stall posts a new one."""
    pool, other = FakePool(least_squares, held=True), FakePool(least_squares)
    first = Loop(pool, radius=100.0)
    state = until_posted(first, pool)
    crash(first)
    resumed = Loop(other, radius=100.0).go_on(state)
    resumed.epoch()
    eventually(lambda: kinds(resumed)[-1] == "failed")
    until_posted(resumed, other)
    for loop in (first, resumed):
        loop.tunneller.close()


def test_an_answer_along_directions_of_other_samples_is_not_read() -> None:
    """A wide layer is sent projected onto directions of its samples, and those are gone: the job is cancelled."""
    pool = FakePool(unchanged, held=True)
    first = Loop(pool, radius=100.0, hidden=600)
    state = until_posted(first, pool)
    crash(first)
    resumed = Loop(pool, radius=100.0, hidden=600).go_on(state)
    resumed.epoch()
    eventually(lambda: len(pool.cancelled) == 1)
    assert "directions of samples that are gone" in (resumed.tunneller.history[-1].detail or "")
    for loop in (first, resumed):
        loop.tunneller.close()
