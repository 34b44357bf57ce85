"""The tunneller's promises: never worse, never in the way, and no trace until an answer helps."""

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, Tensors, least_squares, unchanged
from trainer import Tunneller
from trainer.adoption import adopter
from trainer.errors import DataError, PoolUnavailableError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(count: int = 120) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 5, generator=generator)
    return inputs, (inputs @ torch.randn(5, 3, generator=generator)).argmax(dim=1)


@dataclass
class Run:
    """A small training run, seeded, with dropout and a shuffling loader so that random state matters."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DataLoader[Any]

    @classmethod
    def start(cls, lr: float = 1e-3) -> "Run":
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 3))
        loader = DataLoader(TensorDataset(*data()), batch_size=20, shuffle=True)
        return cls(model, torch.optim.Adam(model.parameters(), lr=lr), loader)

    def epoch(self) -> None:
        self.model.train()
        for inputs, targets in self.loader:
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(inputs), targets).backward()
            self.optimizer.step()

    def errors(self) -> float:
        self.model.eval()
        inputs, targets = data()
        with torch.no_grad():
            return float((self.model(inputs).argmax(dim=1) != targets).float().mean())

    def tunneller(self, pool: FakePool, **options: Any) -> Tunneller:
        settings: dict[str, Any] = {"patience": 1, "min_delta": 0.0, "cooldown": 0, "radius": 100.0}
        settings |= {"data": data(), "validate": self.errors, "mode": "min"} | options
        return Tunneller(self.model, optimizer=self.optimizer, client=pool.client(), **settings)

    def bits(self) -> list[bytes]:
        return [value.numpy().tobytes() for value in self.model.state_dict().values()]


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "waited 20 s in vain"
        time.sleep(0.005)


def plain_run(epochs: int) -> list[bytes]:
    run = Run.start()
    for _ in range(epochs):
        run.epoch()
        run.errors()
    return run.bits()


def kinds(tunneller: Tunneller) -> list[str]:
    return [event.kind for event in tunneller.history]


STALLED = 1.0
"""A score that never improves: every second step() sees a stall."""


def test_until_an_adoption_a_run_is_bit_identical_to_plain_gd() -> None:
    """A pool that never answers leaves no trace: not in the weights, not in the order of the batches."""
    pool, run = FakePool(held=True), Run.start()
    tunneller = run.tunneller(pool)
    for _ in range(6):
        run.epoch()
        run.errors()
        tunneller.step(STALLED)
    assert pool.submitted.wait(20)
    tunneller.close()
    assert "submitted" in kinds(tunneller)
    assert run.bits() == plain_run(6)


def test_a_pool_that_dies_in_mid_run_leaves_no_trace() -> None:
    """Training goes on, bit for bit, and the tunneller says that the pool was lost."""
    pool, run = FakePool(held=True), Run.start()
    tunneller = run.tunneller(pool)
    for epoch in range(6):
        run.epoch()
        run.errors()
        tunneller.step(STALLED)
        if epoch == 2:
            assert pool.submitted.wait(20)
            pool.down = True
            eventually(lambda: tunneller.pool_lost)
    summary = tunneller.close()
    assert summary.pool_lost
    assert run.bits() == plain_run(6)


def test_rejected_answers_are_undone_bit_by_bit() -> None:
    """An answer that does not help on the validation data leaves weights, buffers and optimizer as they were."""

    def zeros(snapshot: Snapshot, spec: JobSpec) -> Tensors:
        return {"weight": 0 * snapshot.weight, "bias": 0 * snapshot.weight[:, 0]}

    run = Run.start()
    pool = FakePool(zeros)
    tunneller = run.tunneller(pool, sync=True)
    for _ in range(6):
        run.epoch()
        run.errors()
        tunneller.step(STALLED)
    summary = tunneller.close()
    assert summary.rejected == summary.answers > 0
    assert run.bits() == plain_run(6)


def test_an_answer_that_helps_is_adopted_and_reported() -> None:
    """Validation improves by what the event says, the layer's optimizer state is fresh, and the pool is told."""
    run, pool = Run.start(), FakePool(least_squares)
    run.epoch()
    before = run.errors()
    tunneller = run.tunneller(pool, sync=True, samples=80)
    last = run.model[4].weight  # type: ignore[index]
    others = len(run.optimizer.state)
    assert [tunneller.step(STALLED), tunneller.step(STALLED)] == [False, True]
    event = next(event for event in tunneller.history if event.kind == "adopted")
    assert event.before == pytest.approx(before)
    assert event.after == pytest.approx(run.errors())
    assert event.after < event.before
    assert set(run.optimizer.state[last]) == {"step", "exp_avg", "exp_avg_sq"}
    assert not any(value.any() for value in run.optimizer.state[last].values())
    assert len(run.optimizer.state) == others
    assert pool.told.wait(20)
    assert pool.feedback["job-1"]["accepted"] is True
    run.epoch()
    tunneller.close()


def test_validation_alone_decides() -> None:
    """Whatever the solver claims, an answer is not adopted when the user's own score does not improve."""
    run = Run.start()
    tunneller = run.tunneller(FakePool(least_squares), sync=True, validate=lambda: 0.5)
    before = run.bits()
    assert not any(tunneller.step(STALLED) for _ in range(4))
    assert run.bits() == before
    tunneller.close()


def test_a_gain_below_min_delta_is_not_adopted() -> None:
    """The same threshold that defines a stall guards adoption."""
    run = Run.start()
    tunneller = run.tunneller(FakePool(least_squares), sync=True, min_delta=5.0)
    assert not any(tunneller.step(STALLED) for _ in range(4))
    assert "rejected" in kinds(tunneller)
    tunneller.close()


def test_answers_that_improve_nothing_are_not_even_tried(caplog: pytest.LogCaptureFixture) -> None:
    """When the solver found nothing better in the box, validation is spared, and no scores are told."""
    caplog.set_level(logging.INFO, logger="gdsolver")
    run, pool = Run.start(), FakePool(unchanged)
    pool.improved = False
    validate = Mock(return_value=STALLED)
    tunneller = run.tunneller(pool, sync=True, validate=lambda: validate())  # noqa: PLW0108
    for _ in range(3):
        tunneller.step(STALLED)
    tunneller.close()
    assert tunneller.summary().answers > 0
    assert validate.call_count == 1, "the one of the first step alone"
    assert "answer rejected (the solver found nothing better in the box)" in caplog.text
    assert "None" not in caplog.text


def test_step_returns_while_the_pool_holds_the_request() -> None:
    """With the gateway stuck in the middle of a request, step() comes back, because it does not ask it."""
    stuck, entered = threading.Event(), threading.Event()

    class Stuck(FakePool):
        def handle_request(self, request: Any) -> Any:
            entered.set()
            stuck.wait(30)
            return super().handle_request(request)

    run = Run.start()
    tunneller = run.tunneller(Stuck())
    for _ in range(3):
        tunneller.step(STALLED)
    assert entered.wait(20)
    for _ in range(50):
        tunneller.step(STALLED)
    assert kinds(tunneller) == ["stall"]
    stuck.set()
    tunneller.close()


def test_the_background_thread_runs_no_torch_operator() -> None:
    """It handles arrays alone: a loader that forks while it holds one of torch's locks would hang."""
    called: list[str] = []

    def note(frame: Any, kind: str, function: Any) -> None:
        if kind == "c_call" and threading.current_thread().name == "gdsolver-tunneller":
            owner = getattr(function, "__self__", None)
            called.append(f"{getattr(function, '__module__', None)} {type(owner).__module__} {function!r}")

    run, pool = Run.start(), FakePool(least_squares)
    threading.setprofile(note)
    try:
        tunneller = run.tunneller(pool, sync=True)
    finally:
        threading.setprofile(None)
    for _ in range(3):
        tunneller.step(STALLED)
    tunneller.close()
    assert "answered" in kinds(tunneller)
    assert called
    assert [call for call in called if "torch" in call] == []


def test_batches_pass_through_untouched_and_are_what_jobs_see() -> None:
    """The loop gets its own batches in their order; the snapshot holds the rows that the loop drew, and no others."""
    run, pool = Run.start(), FakePool()
    inputs, targets = data()
    train = torch.utils.data.SubsetRandomSampler(range(60))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=20, sampler=train)
    tunneller = run.tunneller(pool, data=None, sync=True, layer="0")
    watched = tunneller.watch(loader)
    assert len(watched) == 3
    torch.manual_seed(7)
    seen = [batch for batch, _ in watched]
    torch.manual_seed(7)
    assert all(torch.equal(mine, theirs) for mine, (theirs, _) in zip(seen, loader, strict=True))
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    tunneller.close()
    known = {row.tobytes() for row in inputs[:60].numpy()}
    assert pool.snapshots[0].samples == 60
    assert {row.tobytes() for row in pool.snapshots[0].inputs} == known


def test_a_loop_that_shows_no_samples_is_told_how(caplog: pytest.LogCaptureFixture) -> None:
    """Without `watch`, `observe` or `data` there is nothing to solve; training goes on all the same."""
    run = Run.start()
    tunneller = run.tunneller(FakePool(), data=None, sync=True)
    for _ in range(4):
        tunneller.step(STALLED)
    tunneller.close()
    assert "tunneller.watch(loader)" in caplog.text


def test_a_loader_as_data_is_refused_with_the_cure() -> None:
    """Its data set need not be what the loop trains on: samplers, collation and splits are the loop's own."""
    run = Run.start()
    with pytest.raises(DataError, match=r"tunneller\.watch"):
        run.tunneller(FakePool(), data=run.loader)


def test_a_direction_is_never_guessed() -> None:
    """With accuracy and a default of "min" every answer would make the model worse."""
    run = Run.start()
    with pytest.raises(ValueError, match="mode is missing"):
        run.tunneller(FakePool(), mode=None)
    assert run.tunneller(FakePool(), mode=None, monitor="val_acc")._detector.mode == "max"
    assert run.tunneller(FakePool(), mode=None, monitor="val_loss")._detector.mode == "min"


def test_an_exception_in_the_loop_adopts_nothing() -> None:
    """While an error unwinds, the model is left as it is."""
    run, pool = Run.start(), FakePool(least_squares, held=True)
    tunneller = run.tunneller(pool)
    before = run.bits()

    def loop() -> None:
        with tunneller:
            tunneller.step(STALLED)
            tunneller.step(STALLED)
            assert pool.submitted.wait(20)
            pool.release.set()
            eventually(lambda: "answered" in kinds(tunneller))
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="user"):
        loop()
    assert run.bits() == before
    assert "adopted" not in kinds(tunneller)


def test_a_validation_that_does_not_hear_the_weights_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """One that scores an EMA copy gives the same number before and after: said once, with the cure."""
    run = Run.start()
    tunneller = run.tunneller(FakePool(least_squares), sync=True, validate=lambda: 0.5)
    for _ in range(6):
        tunneller.step(0.5)
    tunneller.close()
    assert caplog.text.count("averaged (EMA) copy") == 1


def test_an_answer_costs_two_validations_at_most() -> None:
    """The known score is not computed again, and candidates are chosen on the kept samples first."""
    run, pool = Run.start(), FakePool(least_squares, held=True)
    tunneller = run.tunneller(pool)
    for _ in range(3):
        run.epoch()
        tunneller.step(STALLED)
    assert pool.submitted.wait(20)
    run.epoch()
    pool.release.set()
    eventually(lambda: "answered" in kinds(tunneller))
    before = tunneller.summary().validations
    tunneller.step(run.errors())
    verdict = next(event for event in tunneller.history if event.kind in ("adopted", "rejected"))
    assert 1 <= tunneller.summary().validations - before <= 2
    assert verdict.staleness_steps
    tunneller.close()


def test_a_known_score_is_computed_again_for_an_adoption_alone() -> None:
    """Once it may stand for `validate` an answer that does not help costs one call, and one that does two."""
    run, pool = Run.start(), FakePool(least_squares)
    scores = iter([*[0.5] * 12, *(0.5, 0.5, 0.4, 0.5)])
    tunneller, calls = run.tunneller(pool, validate=lambda: next(scores, 0.4)), []
    for _ in range(14):
        run.epoch()
        assert tunneller._worker.idle.wait(20)
        before = tunneller.summary().validations
        adopted = tunneller.step(0.5)
        calls.append(tunneller.summary().validations - before)
        if adopted:
            break
    tunneller.close()
    assert adopted
    assert calls.count(1) > 2
    assert max(calls) == 2


@pytest.mark.parametrize(("share", "most"), [(math.inf, 6), (0.0, 2)])
def test_of_several_answers_more_are_validated_unless_that_is_dear(
    share: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls an answer at most; two for all of a stall's together where validations took their share of the time."""
    monkeypatch.setattr(adopter, "VALIDATION_SHARE", share)
    run, pool = Run.start(), FakePool(least_squares)
    tunneller, calls = run.tunneller(pool, validate=lambda: 0.5, fanout=3), []
    for _ in range(8):
        run.epoch()
        assert tunneller._worker.idle.wait(20)
        before = tunneller.summary().validations
        tunneller.step(0.5)
        calls.append(tunneller.summary().validations - before)
    tunneller.close()
    assert max(calls) <= most
    assert (max(calls) > 2) == (most > 2)


def test_a_resumed_run_goes_on_where_it_was() -> None:
    """Patience, radii, turns and counters survive in `state_dict`."""
    run, pool = Run.start(), FakePool(least_squares)
    tunneller = run.tunneller(pool, sync=True, radius=None, validate=lambda: 0.5, patience=2)
    for _ in range(6):
        tunneller.step(STALLED)
    state = tunneller.state_dict()
    tunneller.close()
    resumed = run.tunneller(FakePool(), radius=None, patience=2)
    resumed.load_state_dict(state)
    assert resumed.state_dict() | {"age_s": 0.0} == state | {"age_s": 0.0}
    assert state["radii"]["4"] < 1.0
    with pytest.raises(ValueError, match="format"):
        resumed.load_state_dict({})
    resumed.close()


def test_a_model_that_is_one_layer_is_tunnelled() -> None:
    """Its layer has no name, and its parameters are `weight` and `bias`."""
    inputs, targets = data()
    model = nn.Linear(5, 3)
    tunneller = Tunneller(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        data=(inputs, targets),
        validate=lambda: float((model(inputs).argmax(dim=1) != targets).float().mean()),
        mode="min",
        client=FakePool(least_squares).client(),
        radius=100.0,
        patience=1,
        sync=True,
    )
    assert any(tunneller.step(1.0) for _ in range(3))
    tunneller.close()


def test_a_model_explains_itself() -> None:
    """Layer by layer: units, dead ones, and why not where not."""
    run = Run.start()
    run.model[0].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    with torch.no_grad():
        run.model[0].bias[2] = -100.0  # type: ignore[index, union-attr]
    tunneller = run.tunneller(FakePool())
    told = tunneller.explain()
    assert [layer.why is None for layer in told.layers] == [False, True]
    assert "trainable" in str(told) or "requires_grad" in str(told)
    assert "tunnels '4' (classification, ramp)" in tunneller.plan
    assert "radius 100, answers after at most 10 s" in tunneller.plan
    tunneller.close()


def test_step_leaves_everything_as_it_found_it() -> None:
    """Modes, gradients, requires_grad and all three random states survive even a validation that changes them."""
    run = Run.start()
    run.epoch()

    def rude() -> float:
        run.model.eval()
        run.optimizer.zero_grad()
        run.model[0].weight.requires_grad_(False)  # type: ignore[index]
        return float(torch.rand(()) + np.random.rand() + random.random())

    tunneller = run.tunneller(FakePool(least_squares), sync=True, validate=rude, min_delta=100.0)
    run.model.train()
    run.model[3].eval()  # type: ignore[index]
    torch.manual_seed(5)
    modes = [module.training for module in run.model.modules()]
    gradients = [parameter.grad for parameter in run.model.parameters()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    for _ in range(4):
        tunneller.step(STALLED)
    assert "rejected" in kinds(tunneller)
    assert [module.training for module in run.model.modules()] == modes
    assert all(p.grad is g and p.requires_grad for p, g in zip(run.model.parameters(), gradients, strict=True))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states  # type: ignore[index]
    tunneller.close()


def test_a_validation_that_fails_does_not_lose_the_weights() -> None:
    """If the user's validate() raises in the middle of a trial, the error is theirs and the weights are restored."""
    run = Run.start()
    scores = iter([0.9])
    tunneller = run.tunneller(FakePool(least_squares), sync=True, validate=lambda: next(scores))
    before = run.bits()
    tunneller.step(STALLED)
    with pytest.raises(StopIteration):
        tunneller.step(STALLED)
    assert run.bits() == before
    tunneller.close()


def test_one_warning_only(caplog: pytest.LogCaptureFixture) -> None:
    """A pool that is gone is worth one line; later stalls try again quietly."""
    pool, run = FakePool(), Run.start()
    pool.down = True
    tunneller = run.tunneller(pool, sync=True)
    with caplog.at_level(logging.INFO):
        for _ in range(8):
            tunneller.step(STALLED)
    tunneller.close()
    assert kinds(tunneller).count("failed") > 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_pool_that_comes_back_is_used_again() -> None:
    """After an outage, the next stall's job goes out, and the pool no longer counts as lost."""
    pool, run = FakePool(least_squares), Run.start()
    pool.down = True
    tunneller = run.tunneller(pool, sync=True)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    assert tunneller.pool_lost
    pool.down = False
    assert any(tunneller.step(STALLED) for _ in range(3))
    assert not tunneller.close().pool_lost


def test_a_restart_between_polls_loses_nothing() -> None:
    """A job that was accepted is asked after again when its pool is back."""
    pool, run = FakePool(least_squares, held=True), Run.start()
    tunneller = run.tunneller(pool)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    assert pool.submitted.wait(20)
    pool.down = True
    eventually(lambda: tunneller.pool_lost)
    pool.down = False
    pool.release.set()
    eventually(lambda: "answered" in kinds(tunneller))
    assert tunneller.step(STALLED)
    tunneller.close()


def test_a_model_that_cannot_be_captured_goes_on_training(caplog: pytest.LogCaptureFixture) -> None:
    """Unsuitable layers are reported once, and never break the run."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pool = FakePool()
    tunneller = Tunneller(
        model,
        optimizer=optimizer,
        data=data(),
        validate=lambda: 1.0,
        client=pool.client(),
        mode="min",
        patience=1,
        sync=True,
    )
    for _ in range(5):
        tunneller.step(STALLED)
    tunneller.close()
    assert pool.specs == []
    assert len(caplog.records) == 1
    assert "what follows layer '0'" in caplog.text


@pytest.mark.parametrize(
    ("setting", "value"), [("radius", 0.0), ("fanout", 0), ("time_s", 0.0), ("tail_radius", -1.0), ("samples", 0)]
)
def test_a_setting_that_makes_no_sense_is_named(setting: str, value: float) -> None:
    """It is a ValueError at once, with the cure, instead of a job that is refused at the first stall."""
    with pytest.raises(ValueError, match=f"{setting} is .*; use"):
        on_its_own(two_layers(), FakePool(), **{setting: value})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"validate": None}, "validate is None; use a function"),
        ({"task": "clasification"}, "task is 'clasification'; use one of classification, regression"),
        ({"task": "clasification", "objective": "ramp"}, "task is 'clasification'"),
        ({"constraints": ["acuracy >= 0.9"]}, r"constraints\[0\] is 'acuracy >= 0.9'; .* belong in `require`"),
        (
            {"constraints": [{"type": "min_acuracy"}]},
            r"constraints\[0\] has type 'min_acuracy'; use one of min_accuracy",
        ),
        ({"constraints": [{"type": "grid", "value": "x"}]}, r"constraints\[0\] does not fit \(value: .*; use Re"),
        ({"constraints": "worst >= 0.9"}, "use a list such as"),
    ],
)
def test_a_slip_is_told_in_the_words_of_the_call(settings: dict[str, Any], told: str) -> None:
    """It is a ValueError of one line, before anything is trained."""
    with pytest.raises(ValueError, match=told) as caught:
        Run.start().tunneller(FakePool(), **settings)
    assert "pydantic" not in str(caught.value)


def test_data_of_unequal_lengths_is_told_with_both() -> None:
    """At construction, not as an IndexError from within."""
    inputs, targets = data()
    with pytest.raises(DataError, match="10 inputs and 120 targets"):
        Run.start().tunneller(FakePool(), data=(inputs[:10], targets))
    with pytest.raises(DataError, match="3 weights and 120 targets"):
        Run.start().tunneller(FakePool(), data=(inputs, targets, torch.ones(3)))


def test_close_cancels_what_is_out() -> None:
    """Nobody waits for the answer of a run that is over."""
    pool, run = FakePool(held=True), Run.start()
    tunneller = run.tunneller(pool)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    assert pool.submitted.wait(20)
    tunneller.close()
    assert pool.cancelled == ["job-1"]


def test_polish_tunnels_once_more() -> None:
    """close(polish=True) has the final model solved, and adopts an answer that helps."""
    run, pool = Run.start(), FakePool(least_squares)
    run.epoch()
    before = run.errors()
    tunneller = run.tunneller(pool)
    summary = tunneller.close(polish=True, timeout=20)
    assert summary.adopted == 1
    assert run.errors() < before


@pytest.mark.parametrize(("in_vain", "jobs", "adopted"), [(1, 2, 1), (9, 3, 0)])
def test_polish_tries_again_while_there_is_time(in_vain: int, jobs: int, adopted: int) -> None:
    """An answer that does not help is followed by another job, with another seed; three in vain are the end."""
    run, specs = Run.start(), []

    def solve(snapshot: Snapshot, spec: JobSpec) -> Tensors:
        specs.append(spec)
        return unchanged(snapshot, spec) if len(specs) <= in_vain else least_squares(snapshot, spec)

    run.epoch()
    summary = run.tunneller(FakePool(solve)).close(polish=True, timeout=20)
    assert (len(specs), summary.adopted) == (jobs, adopted)
    assert len({spec.solver.seed for spec in specs}) == jobs


def test_a_polish_of_several_jobs_is_tried_once() -> None:
    """Several seeds and boxes have been looked at then."""
    run, pool = Run.start(), FakePool()
    run.epoch()
    assert run.tunneller(pool, fanout=3).close(polish=True, timeout=20).jobs == 3


def test_polish_with_a_stuck_pool_ends_in_time() -> None:
    """A polish that is not answered is given up and cancelled."""
    pool, run = FakePool(held=True), Run.start()
    before = run.bits()
    summary = run.tunneller(pool).close(polish=True, timeout=0.3)
    assert summary.adopted == 0
    assert run.bits() == before
    eventually(lambda: pool.cancelled == ["job-1"])


def test_one_stall_can_fan_out() -> None:
    """Several jobs of one stall differ in radius and seed, and only the first supersedes."""
    run, pool = Run.start(), FakePool(least_squares)
    tunneller = run.tunneller(pool, sync=True, fanout=3, radius=0.5)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    tunneller.close()
    assert [spec.radius for spec in pool.specs] == [0.5, 1.0, 0.25]
    assert [request.url.path for request in pool.requests].count("/v1/batches") == 1  # one snapshot for all of them
    assert len(pool.snapshots) == 1
    assert [spec.supersede for spec in pool.specs] == [True, False, False]
    assert len({spec.solver.seed for spec in pool.specs}) == 3


def test_the_radius_adapts() -> None:
    """Boxes shrink after a rejection when no radius is given."""
    run, pool = Run.start(), FakePool(least_squares)
    tunneller = run.tunneller(pool, sync=True, radius=None, validate=lambda: 0.0)
    for _ in range(4):
        tunneller.step(STALLED)
    tunneller.close()
    radii = [spec.radius for spec in pool.specs]
    assert len(radii) >= 2
    assert radii == sorted(radii, reverse=True)
    assert radii[0] > radii[1]  # type: ignore[operator]


def test_a_dict_of_scores_needs_a_monitor() -> None:
    """With several scores, the one to watch is named; a wrong name is answered with the right ones."""
    run = Run.start()
    tunneller = run.tunneller(FakePool(), monitor="loss", validate=lambda: {"loss": 1.0, "accuracy": 0.5})
    tunneller.step({"loss": 1.0, "accuracy": 0.5})
    with pytest.raises(ValueError, match="accuracy"):
        tunneller.step({"accuracy": 0.5, "other": 1.0})
    tunneller.close()


def test_a_hidden_block_brings_its_tail_along() -> None:
    """With a tail radius, an answer that also moves the layer behind the block is adopted as a whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
    inputs = data()[0]
    targets = inputs[:, :1]

    def both(snapshot: Snapshot, spec: JobSpec) -> Tensors:
        assert spec.tail_radius == 2.0
        tail = np.zeros((1, 4), np.float32)
        return {"weight": snapshot.weight, "bias": snapshot.bias, "tail.0.weight": tail}  # type: ignore[dict-item]

    def size() -> float:
        return model[2].weight.abs().sum().item()  # type: ignore[operator, union-attr]

    tunneller = Tunneller(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data=(inputs, targets),
        validate=size,
        mode="min",
        client=FakePool(both).client(),
        layer="0",
        tail_radius=2.0,
        patience=1,
        sync=True,
    )
    tunneller.step(STALLED)
    assert tunneller.step(STALLED)
    assert size() == 0.0
    tunneller.close()


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def on_its_own(model: nn.Sequential, pool: FakePool, **options: Any) -> Tunneller:
    """A tunneller that chooses the layer itself and waits for answers."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings: dict[str, Any] = {
        "layer": "auto",
        "sync": True,
        "patience": 1,
        "radius": 1.0,
        "data": data(),
        "mode": "min",
    }
    settings |= options
    return Tunneller(model, optimizer=optimizer, validate=lambda: STALLED, client=pool.client(), **settings)


def test_the_policy_turns_to_the_layer_with_dead_units() -> None:
    """Layer auto: the hidden layer with a dead unit goes first, its biases free to rise; the final layer follows."""
    model, pool = two_layers(), FakePool()
    with torch.no_grad():
        model[0].bias[1] = -20.0  # type: ignore[operator, index, union-attr]
    tunneller = on_its_own(model, pool)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    tunneller.close()
    assert [len(snapshot.tail) for snapshot in pool.snapshots] == [1, 0]
    first, second = pool.specs
    assert first.bias_radius is not None
    assert first.bias_radius > 18.0
    assert (first.radius, first.tail_radius, second.tail_radius) == (1.0, 1.0, 0.0)


def test_squared_errors_behind_a_kink_become_absolute_ones() -> None:
    """With the tail fixed, a hidden job for mse asks for mae, which has a model; the final layer's stays mse."""
    model, pool = two_layers(), FakePool()
    inputs = data()[0]
    tunneller = on_its_own(model, pool, data=(inputs, inputs[:, :3]), objective="mse", tail_radius=0.0)
    for _ in range(3):
        tunneller.step(STALLED)
    tunneller.close()
    asked = {(len(snapshot.tail), spec.objective) for snapshot, spec in zip(pool.snapshots, pool.specs, strict=True)}
    assert asked == {(1, "mae"), (0, "mse")}


def test_a_layer_that_did_not_help_waits_for_the_others() -> None:
    """What is rejected gives way: after the hidden layer and the final one, the hidden layer has its turn again."""
    model, pool = two_layers(), FakePool()
    pool.improved = False
    tunneller = on_its_own(model, pool, cooldown=0)
    for _ in range(4):
        tunneller.step(STALLED)
    tunneller.close()
    layers = [event.detail.split("'")[1] for event in tunneller.history if event.kind == "submitted" and event.detail]
    assert set(layers[:2]) == {"0", "2"}
    assert layers.count("0") >= 2


def test_a_first_tunnel_can_come_before_any_stall() -> None:
    """`first_after` posts a job at that check; idle solvers are of no use to anybody."""
    pool = FakePool()
    tunneller = on_its_own(two_layers(), pool, layer=None, first_after=2, patience=50)
    tunneller.step(3.0)
    assert not pool.specs
    tunneller.step(2.0)
    assert len(pool.specs) == 1
    tunneller.close()


def test_errors_keep_their_family() -> None:
    """All errors of the trainer can be caught by their root."""
    assert issubclass(PoolUnavailableError, __import__("trainer").TrainerError)
