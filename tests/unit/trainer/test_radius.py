"""How wide a job's box is: as the layer's weights are large, and by what became of earlier answers."""

import pytest
import torch
from torch import nn

from tests.unit.trainer.models import classes, seen
from trainer.model.blocks import weight_size
from trainer.stalls.radius import LARGEST, SMALLEST, AdaptiveRadius


def test_the_first_box_is_as_wide_as_weights_are_large() -> None:
    """One mean |weight|, before anything is known."""
    assert AdaptiveRadius().value("a", 0.3) == pytest.approx(0.3)


def test_each_layer_has_its_own() -> None:
    """What helped one layer says nothing of another; boxes stay within bounds however often."""
    radius = AdaptiveRadius()
    for _ in range(50):
        radius.adopted("wide")
        radius.rejected("narrow")
    assert [radius.value(name, 1.0) for name in ("wide", "narrow", "new")] == [LARGEST, SMALLEST, 1.0]


def test_a_fixed_radius_stays() -> None:
    """In weight units, whatever comes of it."""
    radius = AdaptiveRadius(0.5)
    radius.adopted("a")
    assert radius.value("a", 100.0) == 0.5


def test_weights_count_as_no_smaller_than_new_ones() -> None:
    """A head that begins at zero has a box, and one of usual weights has the box of its weights."""
    assert weight_size(0.0, 16) == 0.125
    assert weight_size(0.3, 16) == 0.3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.zeros_(model[2].weight)
    found = seen(model, *classes()).captured
    assert found["2"].weight_size == 0.125
    assert found["0"].weight_size == pytest.approx(float(model[0].weight.detach().abs().mean()))
