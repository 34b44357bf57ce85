"""Small networks go whole: which ones, how far their weights may move, and what becomes of the answers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, Tensors
from tests.unit.trainer.looking import seen
from trainer import Tunneller
from trainer.model.view import LayerView
from trainer.model.whole_network import (
    ANEW,
    MOST_COEFFICIENTS,
    MOST_WEIGHTS,
    WIDTHS,
    boxes,
    drawn_anew,
    draws,
    units,
)
from trainer.stalls.policy import choose
from trainer.stalls.survey import survey

STALLED = 1.0


def network(hidden: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3), nn.ReLU(), nn.Linear(3, 2))
    return nn.Sequential(*layers).eval()


def data(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    return inputs, scale * inputs[:, :2]


def views(model: nn.Sequential, *, whole: bool = True) -> list[LayerView]:
    given: dict[str, Any] = {"gradients": {}, "tail_moves": True, "whole": whole}
    return survey(seen(model, *data()), **given)


def test_a_small_network_is_a_view_of_its_own() -> None:
    """It counts every weight and bias; a large one, or one that may not move as a whole, is seen by layers only."""
    first, *layers = views(network())
    assert first.whole
    assert first.moving == (4 + 1) * 6 + (6 + 1) * 3 + (3 + 1) * 2
    assert [view.whole for view in layers] == [False] * 3
    assert not any(view.whole for view in [*views(network(MOST_WEIGHTS // 8)), *views(network(), whole=False)])


def test_a_whole_network_comes_first_and_takes_turns() -> None:
    """It goes before single layers, and waits for them after it has failed."""
    found = views(network())
    assert choose(found, {}).whole
    assert not choose(found, {found[0].turn: 1}).whole


def test_a_whole_network_gets_as_many_samples_as_its_descents_bear() -> None:
    """Samples times weights are limited; what was asked for is the most."""
    whole = views(network())[0]
    assert whole.samples(1000) == 1000
    assert whole.samples(10**9) == MOST_COEFFICIENTS // whole.moving


def test_boxes_are_in_the_units_of_new_weights() -> None:
    """Larger inputs make the block's unit smaller, larger targets the last layer's larger; widths multiply all."""
    small = seen(network(), *data()).captured["0"].snapshot
    large = seen(network(), *data(scale=10.0)).captured["0"].snapshot
    assert units(small)[1] == pytest.approx(6**-0.5)
    assert units(large)[:2] == units(small)[:2]
    assert units(large)[2] == pytest.approx(10 * units(small)[2], rel=1e-5)
    assert boxes(small, 3.0) == pytest.approx([3 * unit for unit in units(small)])


def test_the_last_tunnel_also_begins_from_new_weights() -> None:
    """Other weights for the same samples, of the size that new ones have; a stall in mid-run begins where GD is."""
    snapshot = seen(network(), *data()).captured["0"].snapshot
    anew = drawn_anew(snapshot, np.random.default_rng(1))
    assert np.array_equal(anew.inputs, snapshot.inputs)
    for old, new in zip((snapshot, *snapshot.tail), (anew, *anew.tail), strict=True):
        assert new.weight.shape == old.weight.shape
        assert not np.array_equal(new.weight, old.weight)
        assert np.abs(new.weight).max() <= old.weight.shape[1] ** -0.5
    assert [draw.width for draw in draws(last=False, count=1)] == list(WIDTHS)
    assert not any(draw.anew for draw in draws(last=False, count=5))
    assert sum(draw.anew for draw in draws(last=True, count=1)) == len(ANEW)


def tunneller(model: nn.Sequential, pool: FakePool, **options: Any) -> Tunneller:
    settings: dict[str, Any] = {"layer": "auto", "sync": True, "patience": 1, "cooldown": 0, "objective": "mse"}
    settings |= {"data": data(), "validate": lambda: size(model), "mode": "min"} | options
    return Tunneller(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), client=pool.client(), **settings)


def size(model: nn.Sequential) -> float:
    return sum(parameter.detach().abs().sum().item() for parameter in model.parameters())


def test_a_stall_sends_the_whole_network_in_several_boxes() -> None:
    """Every layer may move, mse stays mse, and the boxes differ by the widths; only the first supersedes."""
    pool = FakePool()
    with tunneller(network(), pool) as tunnels:
        tunnels.step(STALLED)
        tunnels.step(STALLED)
    assert len(pool.specs) == len(WIDTHS)
    assert {spec.objective for spec in pool.specs} == {"mse"}
    assert [spec.supersede for spec in pool.specs] == [True, False, False]
    radii = np.array([[spec.radius, *spec.tail_radii(2)] for spec in pool.specs])
    assert radii / radii[0] == pytest.approx(np.outer(np.array(WIDTHS) / WIDTHS[0], [1.0, 1.0, 1.0]))


def test_an_answer_moves_every_layer() -> None:
    """What validation confirms is adopted from the first layer to the last."""

    def nothing(snapshot: Snapshot, spec: JobSpec) -> Tensors:
        tail = {f"tail.{number}.weight": np.zeros_like(layer.weight) for number, layer in enumerate(snapshot.tail)}
        return {"weight": np.zeros_like(snapshot.weight)} | tail

    model = network()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    with tunneller(model, FakePool(nothing)) as tunnels:
        tunnels.step(STALLED)
        assert tunnels.step(STALLED)
    weights = {name: values for name, values in model.state_dict().items() if name.endswith("weight")}
    assert len(weights) == 3
    assert not any(torch.equal(values, before[name]) for name, values in weights.items())


def test_several_failures_of_one_stall_count_once() -> None:
    """After a stall in vain the single layers have their turn; then the whole network comes again."""
    pool = FakePool()
    pool.improved = False
    with tunneller(network(), pool) as tunnels:
        for _ in range(12):
            tunnels.step(STALLED)
        asked = [event.detail or "" for event in tunnels.history if event.kind == "submitted"]
    wholes = ["all behind it" in detail for detail in asked]
    again = wholes.index(True, len(WIDTHS))
    assert all(wholes[: len(WIDTHS)])
    assert not any(wholes[len(WIDTHS) : again])
    assert again >= len(WIDTHS) + 3


@pytest.mark.parametrize("setting", ["radius", "tail_radius"])
def test_a_box_that_is_given_is_kept(setting: str) -> None:
    """Whoever says how far weights may move gets single layers in that box."""
    pool = FakePool()
    with tunneller(network(), pool, **{setting: 0.5}) as tunnels:
        tunnels.step(STALLED)
        tunnels.step(STALLED)
    assert not any(isinstance(spec.tail_radius, list) for spec in pool.specs)
