"""What a run's end tells: how the score went, what the last tunnel was, and what became of answers that came late."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gdsolver import Event, Tunneller
from tests.unit.trainer.fakes import FakePool, least_squares, unchanged
from trainer.picture import picture


@dataclass
class Run:
    """A linear model that does not learn, beside targets that it could fit."""

    model: nn.Linear
    inputs: Tensor
    targets: Tensor

    @classmethod
    def start(cls) -> "Run":
        torch.manual_seed(0)
        inputs = torch.randn(40, 4)
        return cls(nn.Linear(4, 1), inputs, inputs.sum(dim=1, keepdim=True))

    def error(self) -> float:
        with torch.no_grad():
            return float(nn.functional.mse_loss(self.model(self.inputs), self.targets))

    def tunneller(self, pool: FakePool, validate: Callable[[], Any] | None = None, **options: Any) -> Tunneller:
        settings: dict[str, Any] = {"mode": "min", "patience": 1, "cooldown": 0, "radius": 10.0}
        settings |= {"data": (self.inputs, self.targets), "validate": validate or self.error} | options
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        return Tunneller(self.model, optimizer=optimizer, client=pool.client(), **settings)


def lines(summary: object) -> list[str]:
    return str(summary).splitlines()


@pytest.mark.parametrize(
    ("mode", "scores", "told"),
    [
        ("min", [3.0, 1.0, 2.0], "score: first 3, best 1 (check 2 of 3), last 2"),
        ("max", [0.5, float("nan"), 0.75], "score: first 0.5, best 0.75 (check 3 of 3), last 0.75"),
    ],
)
def test_a_summary_tells_how_the_score_went(mode: str, scores: list[float], told: str) -> None:
    """Also where gains of adoptions would let a run look better than it ended."""
    with Run.start().tunneller(FakePool(), lambda: scores[0], mode=mode, patience=9) as made:
        for score in scores:
            made.step(score)
        assert told in lines(made.summary())


def test_no_check_has_no_course() -> None:
    """A tunneller that was never given a score says nothing of one."""
    with Run.start().tunneller(FakePool()) as made:
        assert made.summary().course is None
        assert not any(line.startswith("score") for line in lines(made.summary()))


@pytest.mark.parametrize(("alike", "last"), [(True, 0.0), (False, 7.0)])
def test_what_the_last_tunnel_gained_is_the_last_score(alike: bool, last: float) -> None:
    """An adoption after the last check counts, unless `validate` scores something else than the loop does."""
    run = Run.start()
    made = run.tunneller(FakePool(least_squares))
    made.step(run.error() if alike else 7.0)
    summary = made.close(polish=True, timeout=20.0)
    assert summary.adopted == 1
    assert summary.course is not None
    assert summary.course.last == pytest.approx(last, abs=1e-9)


@pytest.mark.parametrize(("options", "hinted"), [({}, True), ({"require": ["mse <= 100"], "monitor": "mse"}, False)])
def test_weights_that_were_better_are_pointed_to(options: dict[str, Any], hinted: bool) -> None:
    """An adoption helped when it came, and the loop lost more since; where something is required a score is not all."""
    run = Run.start()
    with run.tunneller(FakePool(least_squares), lambda: {"mse": run.error()}, sync=True, **options) as made:
        assert [made.step(run.error()) for _ in range(2)] == [False, True]
        with torch.no_grad():
            run.model.weight.add_(1.0)
        made.step(run.error())
        told = "the score was better after check 2 than at the end: use your own checkpoint of then"
        assert (made.summary().advice == told) == hinted


def test_how_the_score_went_survives_a_break() -> None:
    """The first score is the first run's, in a state that is strict JSON; a state of an older release has none."""
    with Run.start().tunneller(FakePool(), patience=9) as made:
        for score in (float("inf"), 1.0):
            made.step(score)
        state = json.loads(json.dumps(made.state_dict(), allow_nan=False))
    with Run.start().tunneller(FakePool(), patience=9) as again:
        again.load_state_dict(state)
        again.step(2.0)
        assert "score: first inf, best 1 (check 2 of 3), last 2" in lines(again.summary())
        del state["course"]
        again.load_state_dict(state)
        assert again.summary().course is None


def test_the_last_tunnel_is_no_stall() -> None:
    """Neither in the events and figures, nor in the log and the picture."""
    made = Run.start().tunneller(FakePool(unchanged))
    for _ in range(2):
        made.step(1.0)
    assert made._worker.idle.wait(20)
    made.step(1.0)
    summary = made.close(polish=True, timeout=20.0)
    kinds = [event.kind for event in made.history]
    assert summary.stalls == kinds.count("stall")
    assert summary.polishes == kinds.count("polish") > 1
    assert f"and a last tunnel ({summary.polishes} tries)" in lines(summary)[0]
    axes, *_ = picture(made.history, summary, "min").axes
    assert "last tunnel, after training" in axes.get_legend_handles_labels()[1]


def test_one_of_each_is_told_as_one(caplog: pytest.LogCaptureFixture) -> None:
    """No plural of one, and the log names the last tunnel."""
    made = Run.start().tunneller(FakePool(least_squares))
    with caplog.at_level("INFO", "gdsolver"):
        summary = made.close(polish=True, timeout=20.0)
    assert lines(summary)[0].startswith("Summary: 0 stalls and a last tunnel, 1 job, 1 answer: 1 adopted")
    assert any(record.message.startswith("last tunnel: answer adopted") for record in caplog.records)


def late(run: Run) -> tuple[FakePool, Tunneller]:
    """A tunneller with one job out, which is answered when nobody looks."""
    pool = FakePool(held=True)
    made = run.tunneller(pool)
    for _ in range(2):
        made.step(1.0)
    assert pool.submitted.wait(20)
    return pool, made


def judged(made: Tunneller, kind: str) -> list[Event]:
    return [event for event in made.history if event.kind == kind and event.stall == 1]


def test_a_job_that_the_last_tunnel_overtakes_says_so() -> None:
    """It is asked anew for the final weights; the reason is about that, whether its answer came or not."""
    pool, made = late(Run.start())
    held, release = made._worker.abandon, pool.release

    def let_go(why: str) -> None:
        release.set()
        held(why)

    made._worker.abandon = let_go  # type: ignore[method-assign]
    summary = made.close(polish=True, timeout=20.0)
    told = "too late for the last step(): the last tunnel asked anew, for the weights of the end"
    assert [event.detail for kind in ("rejected", "cancelled") for event in judged(made, kind)] == [told]
    assert summary.declined[told] == 1


def test_an_answer_that_comes_when_close_ends_has_a_verdict() -> None:
    """Every answer has one, and the reason names what waits for it."""
    pool, made = late(Run.start())
    close = made._worker.close

    def answered_first(timeout: float) -> None:
        pool.release.set()
        assert made._worker.idle.wait(20)
        close(timeout)

    made._worker.close = answered_first  # type: ignore[method-assign]
    summary = made.close()
    told = "answered when all was over: close(polish=True, timeout=...) waits for answers to a last tunnel"
    assert [event.detail for event in judged(made, "rejected")] == [told]
    assert summary.declined == {told: 1}


def test_a_job_dropped_for_another_optimizer_is_not_said_to_be_cancelled_at_close() -> None:
    """The reason is the optimizer, and what hands it over."""
    run = Run.start()
    pool, made = late(run)
    other = torch.optim.SGD(run.model.parameters(), lr=0.0)
    run.model.weight.grad = torch.zeros_like(run.model.weight)
    for _ in range(2):
        other.step()
        made.step(1.0)
    assert made._worker.idle.wait(20)
    assert pool.cancelled
    summary = made.close()
    assert list(summary.declined) == ["dropped as another optimizer took over: see Tunneller.use_optimizer"]
