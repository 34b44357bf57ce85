"""A validation that leaves its score to chance is noticed, and no answer is adopted for a lucky draw."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Tunneller
from trainer.adoption.chance import is_beyond_chance
from trainer.adoption.validation import Judgement, Validator, pooled

TOLD = "leaves its score to chance"
BATCH = 16


def problem(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Noisy classes, to be trained on and for validation."""
    generator = torch.Generator().manual_seed(seed)
    rule = torch.randn(6, 4, generator=generator)

    def drawn(size: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(size, 6, generator=generator)
        return inputs, (inputs @ rule + 1.5 * torch.randn(size, 4, generator=generator)).argmax(dim=1)

    return drawn(300), drawn(2000)


class Loop:
    """A loop of full batches, whose `validate` is made of the function that chooses samples of the validation data."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        self.seen, self.held_out = problem(seed)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)).eval()
        self.optimizer = torch.optim.Adam(self.model.parameters(), 0.03)
        self.choose: Callable[[], Any] = lambda: slice(None)
        settings: dict[str, Any] = {"patience": 1, "min_delta": 0.0, "cooldown": 0, "mode": "min", "sync": True}
        settings |= {"validate": self.validate, "samples": 60, "data": self.seen} | options
        pool = FakePool(least_squares)
        self.tunneller = Tunneller(self.model, optimizer=self.optimizer, client=pool.client(), **settings)

    @torch.no_grad()
    def validate(self) -> float:
        chosen = self.choose()
        inputs, targets = self.held_out
        return functional.cross_entropy(self.model(inputs[chosen]), targets[chosen]).item()

    @torch.no_grad()
    def truth(self) -> float:
        return functional.cross_entropy(self.model(self.held_out[0]), self.held_out[1]).item()

    def train(self) -> None:
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(self.seen[0]), self.seen[1]).backward()
        self.optimizer.step()


def draws() -> Iterator[Callable[[], Any]]:
    """Ways to draw a batch from the global generators, and from some that are kept."""
    kept, numbers, old, own = torch.Generator(), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
    yield lambda: torch.randint(2000, (BATCH,))
    yield lambda: np.random.randint(2000, size=BATCH)
    yield lambda: random.sample(range(2000), BATCH)
    yield lambda: torch.randint(2000, (BATCH,), generator=kept)
    yield lambda: numbers.integers(2000, size=BATCH)
    yield lambda: old.randint(2000, size=BATCH)
    yield lambda: own.sample(range(2000), BATCH)


@pytest.mark.parametrize("way", range(7))
def test_no_answer_is_adopted_for_a_lucky_draw(way: int, caplog: pytest.LogCaptureFixture) -> None:
    """What is adopted is better on all data, and the warning names two scores of the same weights and the cure."""
    for seed in range(2):
        loop = Loop(seed, radius=0.1)
        loop.choose = list(draws())[way]
        loop.seen[1].copy_(loop.seen[1].roll(1))  # what is learned from these labels is of no use
        for _ in range(8):
            before = loop.truth()
            assert not loop.tunneller.step(loop.validate()) or loop.truth() < before
        loop.tunneller.close()
    told = [record.getMessage() for record in caplog.records if TOLD in record.getMessage()]
    assert len(told) == 2
    assert "model.eval()" in told[0]


def test_scores_of_several_draws_are_what_is_told() -> None:
    """An answer that looks good costs sixteen calls more at most, and its event holds their means."""
    loop = Loop(1, samples=300, radius=0.1)
    loop.choose = lambda: torch.randint(2000, (400,))
    adopted, most = 0, 0
    for _ in range(12):
        known, before = loop.tunneller.summary().validations, loop.truth()
        if loop.tunneller.step(loop.validate()):
            adopted += 1
            event = loop.tunneller.history[-1]
            assert event.before == pytest.approx(before, abs=0.1)
            assert event.after == pytest.approx(loop.truth(), abs=0.1)
        most = max(most, loop.tunneller.summary().validations - known)
    loop.tunneller.close()
    assert adopted
    assert most <= 18


def test_random_states_are_the_loops_own() -> None:
    """Whatever other draws an answer is judged on, the loop draws what it would have drawn."""
    loop = Loop(2)
    kept = torch.Generator()
    loop.choose = lambda: torch.randint(2000, (BATCH,), generator=kept) + torch.randint(1, (1,))

    def states() -> list[object]:
        found = torch.get_rng_state(), kept.get_state()
        return [*(state.numpy().tobytes() for state in found), random.getstate(), np.random.get_state()[1].tobytes()]

    for _ in range(12):
        loop.train()
        score, before = loop.validate(), states()
        loop.tunneller.step(score)
        assert states() == before
    assert loop.tunneller.summary().validations > 12
    loop.tunneller.close()


def test_dropout_in_a_validation_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A validation in training mode is told of, with the modules that draw."""
    for seed in range(3):
        loop = Loop(seed)
        for _ in range(3):
            loop.train()
            score = loop.truth()
            loop.model.train()
            loop.tunneller.step(score)
            loop.model.eval()
        loop.tunneller.close()
    assert caplog.text.count(TOLD) == 3
    assert "Dropout '2' being in training mode" in caplog.text


def test_batch_statistics_in_a_validation_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """Without any draw two calls agree, but the score is not the loop's own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4))
    inputs = torch.randn(50, 6)
    validator = Validator(model, lambda: model(inputs).square().mean().item(), None)
    validator.first(-1.0)
    validator.first(-1.0)
    assert caplog.text.count("BatchNorm1d '0' in training mode") == 1
    assert not model._modules["0"]._forward_pre_hooks  # type: ignore[union-attr]


def test_a_loader_that_draws_for_nothing_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Every loader takes a seed from the global generator; where scores agree, an answer costs two calls at most."""
    loop = Loop(0)
    batches = DataLoader(TensorDataset(*loop.held_out), batch_size=500, shuffle=True)

    def validate() -> float:
        with torch.no_grad():
            losses = [functional.cross_entropy(loop.model(inputs), targets).item() for inputs, targets in batches]
        return sum(losses) / len(losses)

    loop.tunneller.close()
    loop = Loop(0, validate=validate)
    most = 0
    for _ in range(25):
        loop.train()
        known = loop.tunneller.summary().validations
        loop.tunneller.step(validate())
        most = max(most, loop.tunneller.summary().validations - known)
    assert loop.tunneller.close().adopted
    assert most == 2
    assert TOLD not in caplog.text


def test_a_run_without_a_first_check_finds_out_before_it_adopts() -> None:
    """`close(polish=True)` of a loop that never called `step` asks once more, and then on several draws."""
    loop = Loop(3)
    loop.choose = lambda: torch.randint(2000, (BATCH,))
    loop.train()
    loop.tunneller.close(polish=True, timeout=20.0)
    event = loop.tunneller.history[-1]
    assert loop.tunneller.summary().validations in (2, 19)  # 19: one looked good
    assert event.kind in ("adopted", "rejected")


def test_scores_that_agree_once_are_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """A coarse score may be the same by chance: where the loop's own is another one, it is asked twice more at most."""
    model = nn.Linear(2, 2)
    coarse = Validator(model, lambda: float(torch.rand(1) < 0.4), None)
    exact = Validator(model, lambda: float(torch.rand(1) > -1.0), None)
    for validator in (coarse, exact):
        torch.manual_seed(3)
        score = validator.first(0.5)
        for _ in range(3):
            validator.is_by_chance(score)
    assert (coarse.by_chance, coarse.calls) == (True, 3)
    assert (exact.by_chance, exact.calls) == (False, 3)
    assert caplog.text.count(TOLD) == 1


def test_what_is_required_has_to_be_kept_in_every_draw() -> None:
    """A model as it is breaks what is required where every draw says so, an answer where one does."""
    one, other = Judgement(1.0, ("a", "b")), Judgement(3.0, ("b",))
    assert pooled([one, other], every=True) == Judgement(2.0, ("b",))
    assert pooled([one, other], every=False) == Judgement(2.0, ("a", "b"))


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.1] * 5, True),
        ([0.0] * 5, False),
        ([0.5, 0.1, 0.3, 0.2, 0.4], True),
        ([1.5, -0.3, 0.1, -0.2, 0.4], False),
        ([float("inf"), 0.1, 0.1, 0.1, 0.1], True),
        ([float("-inf"), 0.1, 0.1, 0.1, 0.1], False),
    ],
)
def test_a_gain_is_more_than_its_spread(gains: list[float], expected: bool) -> None:
    """A mean gain counts where chance alone would rarely make it; one from NaN or infinity always does."""
    assert is_beyond_chance(gains) is expected
