"""Models that put out several tensors: which of them holds the scores, and what is said where nothing tells."""

from collections.abc import Callable
from functools import reduce
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainer.fakes import FakePool
from tests.unit.trainer.models import seen
from trainer import Tunneller
from trainer.errors import DataError
from trainer.snapshots.capture import Plan

N, T = 60, 5
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
CLASSES, TWO, NUMBERS = torch.arange(N) % 4, torch.arange(N) % 2, torch.rand(N, 1)


class Heads(nn.Module):
    """A body, features behind it, and heads on both; `put_out` chooses from what it computes, by name."""

    def __init__(self, put_out: Callable[[dict[str, Any]], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.e, self.c = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(8, 4)
        self.aux, self.v, self.pi = nn.Linear(16, 4), nn.Linear(8, 1), nn.Linear(8, 2)
        self.mu, self.s, self.coarse = nn.Linear(8, 1), nn.Linear(8, 1), nn.Linear(16, 3)
        self.spread = nn.Parameter(torch.zeros(1))
        self.put_out = put_out

    def forward(self, x: Tensor) -> Any:
        h = self.a(x).relu()
        f = self.e(h)
        found = {"h": h, "f": f, "x": x, "spread": self.spread.expand(len(x), 1)}
        g = f.relu()
        found |= {"main": self.c(g), "aux": self.aux(h), "value": self.v(g).squeeze(-1), "policy": self.pi(g)}
        found |= {"mean": self.mu(g), "scale": self.s(g).exp(), "coarse": self.coarse(h)}
        return self.put_out(found)


CHOSEN: dict[str, tuple[Callable[[dict[str, Any]], Any], Tensor, str]] = {
    "features, scores": (lambda o: (o["f"], o["main"]), CLASSES, "c"),
    "scores, features": (lambda o: (o["main"], o["f"]), CLASSES, "c"),
    "features of a frozen body": (lambda o: [o["f"].detach(), o["main"]], CLASSES, "c"),
    "scores, inputs": (lambda o: (o["main"], o["x"]), CLASSES, "c"),
    "features within": (lambda o: {"all": (o["f"], {"scores": o["main"]})}, CLASSES, "c"),
    "scores, probabilities": (lambda o: (o["main"], o["main"].softmax(-1)), CLASSES, "c"),
    "scores twice": (lambda o: (o["main"], 2 * o["main"]), CLASSES, "c"),
    "loss, scores": (lambda o: (o["main"].mean(), o["main"]), CLASSES, "c"),
    "nothing, scores": (lambda o: (None, o["main"]), CLASSES, "c"),
    "states, scores": (lambda o: (o["h"][None], o["main"]), CLASSES, "c"),
    "scores, states": (lambda o: (o["main"], (o["h"][None], o["h"])), CLASSES, "c"),
    "scores, attention": (lambda o: (o["main"], o["h"].softmax(-1)), CLASSES, "c"),
    "main, auxiliary": (lambda o: (o["main"], o["aux"]), CLASSES, "c"),
    "coarse, fine": (lambda o: (o["coarse"], o["main"]), CLASSES, "c"),
    "fine, coarse, for the coarse": (lambda o: (o["main"], o["coarse"]), torch.arange(N) % 3, "coarse"),
    "value, policy": (lambda o: (o["value"], o["policy"]), TWO, "pi"),
    "policy, value": (lambda o: (o["policy"], o["value"]), TWO, "pi"),
    "value, policy of four": (lambda o: (o["value"], o["main"]), CLASSES, "c"),
    "one logit, features": (lambda o: (o["value"], o["f"]), TWO, "v"),
    "mean, variance": (lambda o: (o["mean"], o["scale"]), NUMBERS, "mu"),
    "two heads side by side": (lambda o: (o["mean"], o["value"]), TWO, "mu"),
    "mean, a spread for all": (lambda o: (o["mean"], o["spread"]), NUMBERS, "mu"),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_scores_are_found_among_what_a_model_puts_out(name: str) -> None:
    """Whatever stands before or behind them: the last layer that can be tunnelled is the one that makes them."""
    put_out, targets, layer = CHOSEN[name]
    found = seen(Heads(put_out), X, targets)
    assert list(found.captured)[-1] == layer
    assert not found.captured[layer].block.tail


def test_positions_of_sequences_are_told_from_attention_and_states() -> None:
    """As a Transformers tuple has them: scores, then states and attention of each layer."""
    model = Heads(lambda o: (o["h"], o["main"], (o["h"], o["f"]), (o["h"] @ o["h"].mT,)))
    found = seen(model, torch.randn(N, T, 6), torch.arange(N * T).reshape(N, T) % 4)
    assert list(found.captured)[-1] == "c"


UNCLEAR: dict[str, tuple[Callable[[dict[str, Any]], Any], Tensor, str]] = {
    "auxiliary, main": (lambda o: (o["aux"], o["main"]), CLASSES, "[0] of shape [N, 4] and [1] of shape [N, 4]"),
    "exits": (lambda o: [o["aux"], o["main"]], CLASSES, "[0] of shape [N, 4] and [1] of shape [N, 4]"),
    "a head within": (lambda o: (o["aux"], {"m": o["main"]}), CLASSES, "[0] of shape [N, 4] and [1]['m'] of shape"),
    "auxiliary, main, of numbers": (lambda o: (o["aux"], o["main"]), torch.rand(N, 4), "[0] of shape [N, 4] and [1]"),
}


LAST = {"a head within": [1, "m"]}


@pytest.mark.parametrize("name", UNCLEAR)
def test_where_nothing_tells_the_tensors_are_named_and_the_cure_cures(name: str) -> None:
    """In the first batch; a module around the model says which is meant, whatever it is."""
    put_out, targets, told = UNCLEAR[name]
    with pytest.raises(DataError, match="several tensors that fit the targets") as error:
        tunneller(Heads(put_out)).observe(X, targets)
    assert told in str(error.value)
    assert str(error.value).endswith(f"such as self.model(x){''.join(f'[{key!r}]' for key in LAST.get(name, [1]))}")

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Heads(put_out)

        def forward(self, x: Tensor) -> Any:
            return reduce(getitem, LAST.get(name, [1]), self.model(x))

    with tunneller(Around(), layer="model.c") as found:
        found.observe(X, targets)
        assert "tunnels 'model.c'" in found.plan


def tunneller(model: nn.Module, **options: Any) -> Tunneller:
    optimizer, client = torch.optim.SGD(model.parameters(), 0.1), FakePool().client()
    return Tunneller(model, optimizer=optimizer, validate=lambda: 0.0, mode="min", client=client, **options)


def test_a_look_at_what_comes_from_what_leaves_no_trace() -> None:
    """No gradients, no graph: the look runs once more with gradients, and nothing backwards."""
    model = Heads(lambda o: (o["f"], o["main"]))
    seen(model, X, CLASSES, Plan())
    assert all(parameter.grad is None for parameter in model.parameters())
