"""Models that take batches only as the loop composed them, and what was guessed about a batch, are told of in words."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Tunneller
from trainer.errors import DataError

GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(50, 6, generator=GENERATOR)
Y = torch.arange(50) % 4


def tunneller(model: nn.Module, **options: Any) -> Tunneller:
    """One for which every step but the first is a stall."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    settings: dict[str, Any] = {"client": FakePool(least_squares).client(), "validate": lambda: 0.0, "mode": "min"}
    settings |= {"patience": 1, "cooldown": 0, "sync": True}
    return Tunneller(model, optimizer=optimizer, **settings | options)


class Tagger(nn.Module):
    """As in most tutorials: what it puts out is as long as the batch's longest sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(50, 8), nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embedding(x), lengths, batch_first=True, enforce_sorted=False)
        found: Tensor = self.head(pad_packed_sequence(self.body(packed)[0], batch_first=True)[0])
        return found


class Fixed(nn.Module):
    """The batch's size is in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(x).relu().view(50, 8))
        return found


class Forces(nn.Module):
    """What it puts out are gradients of an energy."""

    def __init__(self, enabled: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.enabled = nn.Linear(6, 16), nn.Linear(16, 1), enabled

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.enabled or torch.is_grad_enabled()):
            x = x.detach().requires_grad_()
            energy = self.head(self.body(x).tanh()).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]


def sentences(seed: int) -> Any:
    """A batch of sequences of different lengths, the longest in one row alone."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [30, *torch.randint(3, 20, (31,), generator=generator).tolist()]
    found = [torch.randint(1, 50, (length,), generator=generator) for length in lengths]
    targets = pad_sequence([x % 5 for x in found], batch_first=True, padding_value=-100)
    return (pad_sequence(found, batch_first=True), torch.tensor(lengths)), targets


COMPOSED: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {
    "padded to the longest": (Tagger, sentences),
    "a size in forward": (Fixed, lambda _: (X, Y)),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_what_a_part_of_a_batch_causes_is_told_and_not_raised(name: str) -> None:
    """Whichever rows are looked at first: the loop goes on, and the words say that a whole batch runs."""
    model, batch = COMPOSED[name]
    for seed in range(6):
        torch.manual_seed(seed)
        with tunneller(model(), seed=seed) as made:
            for step in range(4):
                made.observe(batch(seed))
                made.step(float(step))
            told = [made.plan, *(event.detail or "" for event in made.history if event.kind == "failed")]
            assert any("only takes batches as the loop composes them: a whole one of" in text for text in told)
            assert not any("does not fit" in text and "give `split`" in text for text in told)


def test_gradients_in_forward_are_named_with_their_cure() -> None:
    """With the cure the model can be run, and what is said then is about what it computes."""
    with tunneller(Forces()) as made:
        made.observe(X, X)
        assert "needs gradients inside its forward" in made.plan
        assert "torch.enable_grad()" in made.plan
    with tunneller(Forces(enabled=True)) as made:
        made.observe(X, X)
        assert "gradients" not in made.plan


def test_data_that_do_not_fit_are_an_error_as_ever() -> None:
    """Where a whole batch does not fit either, the loop's author had better know at once."""
    with tunneller(nn.Sequential(nn.Linear(6, 4))) as made, pytest.raises(DataError, match="does not fit"):
        made.observe(X, torch.rand(50))


def test_weights_that_were_guessed_are_in_the_plan() -> None:
    """A third part may be ages: the plan says what it was taken for, and how large it is."""
    ages = torch.linspace(18, 64, 50)
    with tunneller(nn.Linear(6, 4)) as made:
        made.observe(X, Y, ages)
        assert "(classification, ramp, weighted by the batch's third part, 18 to 64)" in made.plan


@pytest.mark.parametrize(
    "options",
    [{"data": (X, Y, torch.rand(50) + 1)}, {"split": lambda batch: ((batch[0],), {}, batch[1], batch[2])}],
)
def test_weights_that_were_meant_are_no_guess(options: dict[str, Any]) -> None:
    """Whoever gives them by name is not told."""
    with tunneller(nn.Linear(6, 4), **options) as made:
        made.observe(X, Y, torch.rand(50) + 1)
        assert "(classification, ramp)" in made.plan
