"""The layer of the default is the last that is called: what is registered behind it does not matter."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainer.fakes import FakePool, unchanged
from trainer import Tunneller
from trainer.errors import CaptureError, FinalLayerError

X, Y = torch.randn(100, 6, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 4


class Network(nn.Module):
    """A body and a head; what is registered behind them is a case's own matter."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.body(x).relu()))  # type: ignore[no-any-return]

    def between(self, features: Tensor) -> Tensor:
        """What stands between body and head."""
        return features


class Attending(Network):
    """Its attention uses a layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def between(self, features: Tensor) -> Tensor:
        one = features.unsqueeze(1)
        return features + self.attention(one, one, one)[0].squeeze(1)  # type: ignore[no-any-return]


class Taught(Network):
    """A frozen teacher is called before or after."""

    def __init__(self, *, after: bool) -> None:
        super().__init__()
        self.teacher, self.after = nn.Linear(6, 4).requires_grad_(requires_grad=False), after

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x) if self.after else None
        self.teacher(x)
        return super().forward(x) if scores is None else scores


class Normed(Network):
    """A projection whose weight is made of others."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))

    def between(self, features: Tensor) -> Tensor:
        return self.projection(features).relu()  # type: ignore[no-any-return]


class KeyEncoder(Network):
    """A key encoder that only momentum moves, as in MoCo."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).requires_grad_(requires_grad=False)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attending,
    "a teacher before": lambda: Taught(after=False),
    "a teacher after": lambda: Taught(after=True),
    "spectral norm": Normed,
    "key encoder": KeyEncoder,
}


def tunnelled(model: nn.Module, pool: FakePool, **settings: object) -> Tunneller:
    """The model's tunneller after a stall."""
    made = Tunneller(
        model,
        optimizer=torch.optim.SGD([one for one in model.parameters() if one.requires_grad], 0.01),
        validate=lambda: 0.0,
        mode="min",
        client=pool.client(),
        patience=1,
        sync=True,
        **settings,  # type: ignore[arg-type]
    )
    with made:
        for _ in range(3):
            made.observe(X, Y)
            made.step(1.0)
    return made


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_what_is_registered_behind_the_head_does_not_matter(make: Callable[[], nn.Module]) -> None:
    pool = FakePool(unchanged)
    found = tunnelled(make(), pool)
    assert "tunnels 'head'" in found.plan
    assert {event.kind for event in found.history}.isdisjoint({"failed", "refused"})
    assert pool.snapshots


def test_where_the_head_may_not_move_the_others_are_named() -> None:
    """Nothing else is tunnelled in its stead: that would be another question than was asked."""
    model, pool = Attending(), FakePool(unchanged)
    model.head.requires_grad_(requires_grad=False)
    with pytest.raises(
        FinalLayerError, match="the final layer 'head' cannot be tunnelled: its weight is frozen"
    ) as told:
        tunnelled(model, pool)
    assert str(told.value).endswith("these may move, if given as `layer`: 'body'")
    assert not pool.snapshots


def test_a_loop_that_goes_on_all_the_same_has_no_other_layer_tunnelled() -> None:
    model, pool = Attending(), FakePool(unchanged)
    model.head.requires_grad_(requires_grad=False)
    made = Tunneller(
        model,
        optimizer=torch.optim.SGD(model.body.parameters(), 0.01),
        validate=lambda: 0.0,
        mode="min",
        client=pool.client(),
        patience=1,
        sync=True,
    )
    with made:
        for _ in range(3):
            with suppress(FinalLayerError):
                made.observe(X, Y)
            made.step(1.0)
    assert not pool.snapshots
    assert "frozen" in str(made.history[-1].detail)


def test_a_head_that_may_not_move_and_is_defined_first_is_named_as_well() -> None:
    class Turned(Network):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(8, 4), nn.Linear(6, 8)
            self._modules = {name: self._modules[name] for name in ("head", "body")}

    model, pool = Turned(), FakePool(unchanged)
    model.head.requires_grad_(requires_grad=False)
    with pytest.raises(FinalLayerError, match="the final layer 'head' cannot be tunnelled"):
        tunnelled(model, pool)
    assert not pool.snapshots


def test_a_head_that_the_loop_has_frozen_by_the_first_batch_may_be_freed_again() -> None:
    """As after a crash, in a loop that freezes and frees layers: it is said, and training goes on."""
    model, pool = Attending(), FakePool(unchanged)
    made = Tunneller(
        model,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        validate=lambda: 0.0,
        mode="min",
        client=pool.client(),
        patience=1,
        sync=True,
    )
    model.head.requires_grad_(requires_grad=False)
    with made:
        for _ in range(3):
            made.observe(X, Y)
            made.step(1.0)
        assert "the final layer 'head' cannot be tunnelled: its weight is frozen" in made.plan
        assert not pool.snapshots
        model.head.requires_grad_(requires_grad=True)
        for _ in range(5):
            made.step(1.0)
    assert {len(snapshot.weight) for snapshot in pool.snapshots} == {4}


def test_where_no_layer_may_move_that_is_said_at_once() -> None:
    model = Attending().requires_grad_(requires_grad=False)
    model.extra = nn.Parameter(torch.zeros(3))
    with pytest.raises(CaptureError, match="cannot be tunnelled"):
        tunnelled(model, FakePool(unchanged))


def test_a_layer_that_is_given_is_looked_at_when_the_tunneller_is_made() -> None:
    with pytest.raises(CaptureError, match="out_proj"):
        tunnelled(Attending(), FakePool(unchanged), layer="attention.out_proj")
