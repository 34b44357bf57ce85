"""Constraints on weights hold for the live model's own parameters, however a layer travels to the pool."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gdsolver import Grid, Levels, MaxNonzero, Monotone, MovementCost, NonNegative
from shared.constraints import ON_WEIGHTS, violations
from shared.contracts import Constraint, JobSpec
from shared.errors import SpecError
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, Tensors
from trainer import Tunneller
from trainer.stalls import inspection

LEVELS = [0.1 * number for number in range(-30, 31)]
ASKED: dict[str, Constraint] = {
    "nonnegative": NonNegative(),
    "monotone": Monotone(-1),
    "max_nonzero": MaxNonzero(10),
    "grid": Grid(0.1),
    "levels": Levels(LEVELS),
}


def kept(snapshot: Snapshot, spec: JobSpec) -> Tensors:
    """Random weights in the box that keep the job's constraint on the wire."""
    box = np.broadcast_to(snapshot.radius if snapshot.radius is not None else spec.radius, snapshot.weight.shape)
    weight = snapshot.weight + box * np.random.default_rng(0).uniform(-1, 1, snapshot.weight.shape)
    match spec.constraints[0].type:
        case "nonnegative":
            weight = np.where(weight > 0.2, weight, 0.0)
        case "monotone":
            weight = np.where(weight < -0.2, weight, 0.0)
        case "max_nonzero":
            weight[np.abs(weight) < np.sort(np.abs(weight).ravel())[-10]] = 0.0
        case "grid":
            weight = 0.1 * np.rint(weight / 0.1)
        case "levels":
            weight = np.array(LEVELS)[np.abs(weight[..., None] - LEVELS).argmin(-1)]
    answer = {"weight": weight.astype(np.float32)}
    assert not violations(spec.constraints, snapshot, answer["weight"], None)
    return answer | ({} if snapshot.bias is None else {"bias": snapshot.bias})


def plain(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A layer that travels as it is."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def normalised(scales: Sequence[float] = (1.3, -0.7, 2.1)) -> nn.Sequential:
    """A layer that travels with the normalisation behind it folded in, at `2`."""
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        net[3].weight.copy_(torch.tensor(scales))
    return net.eval()


def wide() -> nn.Sequential:
    """A layer that travels along a few directions."""
    return nn.Sequential(nn.Linear(600, 3))


def tunneller_of(net: nn.Module, asked: Constraint, pool: FakePool, layer: str | None = None) -> Tunneller:
    """At its first look; every validation is better than the one before."""
    falling = iter(range(1000, 0, -1))
    first = next(net.parameters())
    inputs = torch.randn(60, first.shape[1], dtype=first.dtype)
    return Tunneller(
        net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        validate=lambda: {"loss": float(next(falling)), "sound": 1.0},
        monitor="loss",
        require={"sound": 0.5},  # then what the kept samples say does not count
        data=(inputs, torch.arange(60) % 3),
        client=pool.client(),
        constraints=[asked],
        layer=layer,
        radius=5.0,
        sync=True,
    )


def polished(tunneller: Tunneller) -> list[str]:
    """What became of an answer, in the events' words."""
    tunneller.close(polish=True, timeout=10.0)
    return [event.detail or "" for event in tunneller.history if event.kind in ("rejected", "refused", "failed")]


def off(asked: Constraint, weight: Tensor) -> bool:
    """Whether a layer's weights break a constraint."""
    held = weight.detach().float().numpy()
    nowhere = Snapshot(
        "regression", np.zeros((1, held.shape[1]), np.float32), np.zeros((1, len(held)), np.float32), held
    )
    return bool(violations([asked], nowhere, held, None))


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize(
    ("make", "at"),
    [
        (plain, 2),
        (lambda: plain(torch.bfloat16), 2),
        (lambda: plain(torch.float16), 2),
        (normalised, 2),
        (lambda: normalised((1.3, 0.7, 2.1)), 2),
        (wide, 0),
    ],
    ids=["plain", "bfloat16", "float16", "turned", "scaled", "wide"],
)
@pytest.mark.parametrize("looked", [True, False], ids=["looked", "unlooked"])
def test_what_is_adopted_keeps_the_constraints(
    kind: str, make: Callable[[], nn.Sequential], at: int, looked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the model's own parameters, whether the first look sees it coming or not."""
    torch.manual_seed(0)
    if not looked:
        monkeypatch.setattr(inspection, "unkept", lambda *_, **__: None, raising=False)
    net, pool = make(), FakePool(kept)
    before = net[at].weight.detach().clone()
    try:
        tunneller = tunneller_of(net, ASKED[kind], pool, str(at))
    except SpecError:
        assert looked
        return
    told = polished(tunneller)
    if torch.equal(net[at].weight, before):
        assert any("do not keep constraints.0" in why for why in told)
    else:
        assert not off(ASKED[kind], net[at].weight)


@pytest.mark.parametrize("kind", ASKED)
def test_a_plain_layer_adopts(kind: str) -> None:
    """Nothing stands against a float32 layer that travels as it is."""
    torch.manual_seed(0)
    net = plain()
    tunneller = tunneller_of(net, ASKED[kind], FakePool(kept))
    assert polished(tunneller) == []
    assert [event.way for event in tunneller.history if event.kind == "adopted"] == ["block"]
    assert not off(ASKED[kind], net[2].weight)


@pytest.mark.parametrize("kind", ["nonnegative", "monotone", "max_nonzero"])
def test_a_scaled_layer_adopts_what_scaling_keeps(kind: str) -> None:
    """What is 0 on the wire is 0 in the layer, to the last bit."""
    torch.manual_seed(0)
    net = normalised((1.3, 0.7, 2.1))
    tunneller = tunneller_of(net, ASKED[kind], FakePool(kept), "2")
    assert polished(tunneller) == []
    assert not off(ASKED[kind], net[2].weight)
    assert 10 <= int((net[2].weight == 0).sum()) < 24


@pytest.mark.parametrize("kind", ASKED)
def test_a_wide_layer_is_refused_at_the_first_look(kind: str) -> None:
    """Its jobs move directions; the price of movement alone may go with them."""
    with pytest.raises(SpecError, match=rf"^constraints.0: layer '0' cannot keep {kind}: its 600 inputs .* `layer`"):
        tunneller_of(wide(), ASKED[kind], FakePool())
    tunneller_of(wide(), MovementCost(0.1), FakePool()).close()
    with pytest.raises(SpecError, match="cannot keep movement_cost: its 600 inputs"):
        tunneller_of(wide(), MovementCost(0.1, indices=500), FakePool())


@pytest.mark.parametrize(
    ("asked", "scales", "told"),
    [
        (NonNegative(), (1.3, -0.7, 2.1), "turns the signs"),
        (NonNegative(classes=[0, 2]), (1.3, -0.7, 2.1), None),
        (Monotone(1), (1.3, 0.0, 2.1), "turns the signs"),
        (Monotone(-1), (1.3, 0.7, 2.1), None),
        (MaxNonzero(12), (1.3, -0.7, 2.1), None),
        (MaxNonzero(12), (1.3, 0.0, 2.1), "weight of 0"),
        (Grid(0.125), (1.3, 0.7, 2.1), "scales its weights"),
        (Levels([-1, 0, 1]), (1.3, 0.7, 2.1), "scales its weights"),
        (MovementCost(0.1), (1.3, -0.7, 2.1), None),
    ],
)
def test_a_normalised_layer_is_refused_where_it_cannot_keep_one(
    asked: Constraint, scales: tuple[float, ...], told: str | None
) -> None:
    """With the cure; where it can, a tunneller is made."""
    if told is None:
        tunneller_of(normalised(scales), asked, FakePool(), "2").close()
        return
    with pytest.raises(SpecError, match=f"{told}.*without BatchNorm.*`constraints`"):
        tunneller_of(normalised(scales), asked, FakePool(), "2")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        (Grid(0.1), False),
        (Grid(0.125), True),
        (Levels([-0.5, 0, 0.5]), True),
        (Levels([-0.3, 0.3]), False),
        (NonNegative(), True),
        (MaxNonzero(10), True),
    ],
)
def test_a_layer_of_16_bits_is_refused_for_what_they_do_not_hold(
    dtype: torch.dtype, asked: Constraint, fits: bool
) -> None:
    """A step of an eighth they hold, a tenth they round off."""
    if fits:
        tunneller_of(plain(dtype), asked, FakePool(), "2").close()
        return
    with pytest.raises(SpecError, match=r"rounds off.*float32"):
        tunneller_of(plain(dtype), asked, FakePool(), "2")


def test_of_several_layers_those_that_can_are_tunnelled() -> None:
    """With `layer="auto"` the others are passed over, and the reason is told."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    tunneller = tunneller_of(net, Grid(0.125), FakePool(kept), "auto")
    assert tunneller.plan.startswith("tunnels '3'")
    why = {layer.name: layer.why for layer in tunneller.explain().layers}
    assert why["3"] is None
    assert "cannot keep grid" in str(why["0"])
    tunneller.close()


def test_every_type_on_weights_is_tested() -> None:
    """movement_cost is a price: it is never broken."""
    assert {*ASKED, "movement_cost"} == set(ON_WEIGHTS)
