"""Batches whose fields say what they are: named tuples are read by their fields, wherever these stand."""

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainer.fakes import FakePool
from trainer import Tunneller
from trainer.errors import DataError
from trainer.samples.batches import read_batch
from trainer.samples.reservoir import Reservoir
from trainer.samples.sources import reservoir_of

X, Y, W, Z = torch.randn(8, 3), torch.rand(8, 3), torch.rand(8), torch.randn(8, 2)
G = torch.arange(8)


def made(fields: str, *parts: Any) -> Any:
    return namedtuple("Named", fields)(*parts)


READ: dict[str, tuple[Any, list[Tensor], Tensor | None, Tensor | None]] = {
    "weights before labels": (made("inputs weights labels", X, W, Y), [X], W, None),
    "labels before inputs": (made("labels inputs", Y, X), [X], None, None),
    "labels before anything": (made("target tokens", Y, X), [X], None, None),
    "weights first": (made("sample_weight x y", W, X, Y), [X], W, None),
    "capital letters": (made("Y X", Y, X), [X], None, None),
    "two inputs": (made("x lengths label", X, Z, Y), [X, Z], None, None),
    "two inputs about labels": (made("x label features", X, Y, Z), [X, Z], None, None),
    "several inputs in one": (made("targets inputs", Y, (X, Z)), [X, Z], None, None),
    "groups": (made("x y group", X, Y, G), [X], None, G),
    "all": (made("groups weights y x", G, W, Y, X), [X], W, G),
    "whole weights": (made("x y weights", X, Y, G), [X], G, None),
    "in order": (made("x y weights", X, Y, W), [X], W, None),
    "in order, of no meaning": (made("a b", X, Y), [X], None, None),
    "in order, a target of another name": (made("image features", X, Y), [X], None, None),
    "a third part behind labels": (made("x y ages", X, Y, W), [X], W, None),
}


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("name", READ)
def test_fields_say_what_they_are(name: str, arrays: bool) -> None:
    """Inputs in their order, targets, weights and groups; also as `data=`."""
    batch, inputs, weights, groups = READ[name]
    if arrays:
        several = [part.numpy() if isinstance(part, Tensor) else tuple(p.numpy() for p in part) for part in batch]
        batch = type(batch)(*several)
    found = read_batch(batch)
    assert torch.equal(found.targets, Y)
    for got, wanted in (*zip(found.args, inputs, strict=True), (found.weights, weights), (found.groups, groups)):
        assert (got is None and wanted is None) or torch.equal(got, wanted)
    if weights is None or weights.is_floating_point():
        kept = reservoir_of(batch, None, keep=8, keep_mb=1.0, seed=0).rows(8, np.random.default_rng(0))
        batches = [part for _, part in kept.batches(8, torch.device("cpu"))]
        assert torch.equal(batches[0].targets.sort(0).values, Y.sort(0).values)


@pytest.mark.parametrize(
    "batch",
    [
        made("x y target", X, Y, Y),
        made("inputs weights outputs", X, W, Y),
        made("outputs inputs", Y, X),
        made("labels", Y),
        made("index x y", G, X, Y),
        made("x weights sample_weight y", X, W, W, Y),
        made("a b c d", X, Y, W, W),
    ],
)
def test_fields_that_do_not_say_it_are_refused_with_the_cure(batch: Any) -> None:
    """What speaks against the order, and names no labels, is no guess."""
    with pytest.raises(DataError, match=r"Named.* split=lambda batch"):
        read_batch(batch)


def test_only_weights_that_nothing_names_are_a_guess() -> None:
    """The plan line says what a third part was taken for, of a named tuple as of any."""
    for batch, guessed in (
        ((X, Y, W), True),
        (made("a b c", X, Y, W), True),
        (made("x y ages", X, Y, W), True),
        (made("x y weights", X, Y, W), False),
        (made("weights x y", W, X, Y), False),
        (made("x lengths y", X, Z, Y), False),
    ):
        reservoir = Reservoir()
        reservoir.observe(batch)
        assert reservoir.weighs is guessed


def test_a_job_has_the_labels_as_targets() -> None:
    """Ten loops of ten had the weights in their place."""
    pool, labels, weights = FakePool(), torch.rand(60, 1) + 5, torch.rand(60, 1)
    model, inputs = nn.Linear(6, 1), torch.randn(60, 6)
    options: dict[str, Any] = {"patience": 1, "cooldown": 0, "sync": True, "client": pool.client()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Tunneller(model, optimizer=optimizer, validate=lambda: 0.0, mode="min", **options) as found:
        for _ in range(3):
            for _ in found.watch([made("inputs weights labels", inputs, weights, labels)]):
                pass
            found.step(1.0)
        assert "third part" not in found.plan
    assert np.allclose(np.sort(pool.snapshots[-1].targets.ravel()), labels.ravel().sort().values)
