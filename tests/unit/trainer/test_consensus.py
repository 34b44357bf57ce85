"""Starts with goals in turn, and the tunnels to what the best of them agree on."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pytest
import torch
from torch import nn

from trainer.events import Event, Summary
from trainer.lab.at_stall.consensus import QUESTIONS, Consensus, added, between
from trainer.lab.goal import Goal, goals
from trainer.lab.states import copy_state, write_state
from trainer.lab.tasks import Request, Task, load_task
from trainer.stalls.detector import StallDetector

FIGURES = Summary(
    stalls=1,
    jobs=3,
    answers=3,
    adopted=1,
    rejected=2,
    failed=0,
    pool_lost=False,
    gd_steps_during_jobs=0,
    longest_step_ms=2.0,
    validate_s=0.5,
    declined={"late": 1},
)


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return load_task(Request("polynomial"), 0)


class FakeTunneller:
    """Remembers what it was asked, and moves the model's last bias by what it was told to."""

    def __init__(self, model: nn.Module, shift: float, **asked: Any) -> None:
        self.model, self.shift, self.asked = model, shift, asked
        self.before = copy_state(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def step(self, score: float) -> bool:
        self.asked["on_event"](Event("stall", 0.0, 1, 0, 1))
        with torch.no_grad():
            self.model[-1].bias += self.shift  # type: ignore[index, operator, union-attr]
        if self.asked["validate"]() < score:
            return True
        write_state(self.model, self.before)
        return False

    def summary(self) -> Summary:
        return FIGURES


def started(task: Task, asked: list[FakeTunneller], shift: float = 0.0) -> tuple[Consensus, nn.Module, Goal]:
    """A consensus over a new model, whose tunnels move it by `shift`."""
    model, goal = task.model(), Goal()

    def ask(**details: Any) -> Any:
        asked.append(FakeTunneller(model, shift, **details))
        return asked[-1]

    optimizer = torch.optim.LBFGS(model.parameters())
    detector: Callable[[], StallDetector] = lambda: StallDetector(patience=1, min_delta=0.0, cooldown=0)  # noqa: E731
    return Consensus(task, model, optimizer, detector, goal=goal, ask=ask, seed=0), model, goal


def starts(found: Consensus, model: nn.Module, goal: Goal, count: int) -> list[float]:
    """End so many starts at once; the prices that they had."""
    prices = []
    for _ in range(count):
        prices.append(goal.decay)
        before = copy_state(model)
        while all(torch.equal(before[name], value) for name, value in copy_state(model).items()):
            found.step(1.0)
    return prices


def test_every_price_has_a_start_and_then_the_best_two_go_on(task: Task) -> None:
    """Which of them suits the data, selection and validation say."""
    found, model, goal = started(task, [])
    ladder = [each.decay for each in goals(task)]
    prices = starts(found, model, goal, len(ladder) + 4)
    assert prices[: len(ladder)] == ladder
    assert len(set(prices[len(ladder) :])) <= 2 + 1  # a later start may change who is second


def test_the_consensus_is_the_mean_of_the_best_starts(task: Task) -> None:
    """On the training samples, and on points between them where that is asked."""
    asked: list[FakeTunneller] = []
    found, model, goal = started(task, asked)
    starts(found, model, goal, 6)
    found.close(polish=True)
    kinds = [one.asked["consensus"] for one in asked]
    assert kinds == [True, False, True, True]  # nothing was gained by either, so the consensus goes on
    best = sorted(found._kept, key=lambda pair: pair[0])[: QUESTIONS[0].starts]
    inputs, targets = asked[0].asked["data"]
    outputs = []
    for _, state in best:
        write_state(model, state)
        outputs.append(model(inputs).detach())
    assert torch.allclose(targets, torch.stack(outputs).mean(dim=0), atol=1e-5)
    assert len(asked[3].asked["data"][0]) == len(task.train) + QUESTIONS[2].between


def test_what_is_reported_is_never_worse_than_the_best_start(task: Task) -> None:
    """An answer that data held out do not prefer leaves no trace; one that they do is one more start."""
    for shift, better in ((0.5, True), (-50.0, False)):
        found, model, goal = started(task, [], shift)
        starts(found, model, goal, 3)
        before, kept = min(score for score, _ in found._kept), len(found._kept)
        found.close(polish=True)
        assert task.score_on_both(model) <= before
        assert (len(found._kept) > kept) is better
        assert [event.stall for event in found.history] == [1, 2, 3, 4]


def test_a_resumed_run_goes_on_with_the_same_goal(task: Task) -> None:
    """The price of the start that was under way, and which starts had which."""
    found, model, goal = started(task, [])
    starts(found, model, goal, 2)
    other, _, resumed = started(task, [])
    other.load_state_dict(found.state_dict())
    assert resumed == goal
    assert other.state_dict()["goals"] == [0, 1, 2]


def test_figures_of_tunnels_are_added() -> None:
    """The longest step is the longest of all."""
    both = added(added(None, FIGURES), FIGURES)
    assert (both.jobs, both.adopted, both.declined, both.longest_step_ms) == (6, 2, {"late": 2}, 2.0)


def test_points_between_lie_nearer_to_one_sample() -> None:
    """On the line to another, at most half of the way."""
    inputs = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    points = between(inputs, 50, seed=1)
    assert points.shape == (50, 2)
    assert torch.allclose(points[:, 1], 2 * points[:, 0])


def test_a_price_means_the_same_in_any_unit(task: Task) -> None:
    """It is in units of the targets' variance; biases are free."""
    model, goal = task.model(), Goal(decay=0.1)
    squares = sum(weight.square().sum() for weight in model.parameters() if weight.dim() > 1)
    plain = task.loss(model(task.train.inputs), task.train.targets)
    expected = plain + 0.1 * task.train.targets.var() * squares
    assert goal(task, model, task.train).item() == pytest.approx(expected.item(), rel=1e-5)
