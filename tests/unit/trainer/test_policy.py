"""Which layer is tunnelled: dead units first, each layer in its turn, none that is too large."""

import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainer.looking import seen
from trainer.errors import CaptureError
from trainer.model.view import MOST_COEFFICIENTS, LayerView
from trainer.stalls.policy import FEWEST_SAMPLES, choose
from trainer.stalls.survey import relative_gradients, survey


def view(name: str, **fields: object) -> LayerView:
    plain = {"hidden": True, "units": 4, "dead": 0, "nearly_dead": 0, "gradient": None, "moving": 10, "outputs": 2}
    return LayerView(name=name, **(plain | fields))  # type: ignore[arg-type]


def test_dead_units_come_first() -> None:
    """GD cannot move a dead unit, so a layer with dead ones is the most urgent; nearly dead ones count half."""
    views = [view("a"), view("b", nearly_dead=1), view("c", dead=1), view("d", hidden=False)]
    assert choose(views, {}).name == "c"
    assert choose(views[:2], {}).name == "b"


def test_among_equals_the_smallest_gradient_comes_first() -> None:
    """Where GD still moves, it does not need help."""
    assert choose([view("a", gradient=0.5), view("b", gradient=0.1)], {}).name == "b"


def test_layers_take_turns() -> None:
    """A layer whose answers did not help waits until the others have been tried as often."""
    views = [view("a", dead=2), view("b")]
    assert choose(views, {"a": 1}).name == "b"
    assert choose(views, {"a": 1, "b": 1}).name == "a"


def test_a_layer_that_is_too_large_is_not_chosen() -> None:
    """What does not fit is left out; if nothing fits, the estimate and the limit are in the error."""
    large = view("large", dead=4, moving=MOST_COEFFICIENTS, outputs=1)
    assert choose([large, view("small")], {}).name == "small"
    with pytest.raises(CaptureError, match=f"'large' would take {FEWEST_SAMPLES * MOST_COEFFICIENTS:,} coefficients"):
        choose([large], {})


def test_a_large_hidden_layer_gets_fewer_samples() -> None:
    """The sample count shrinks with the weights that move; a final layer takes what was asked for."""
    assert view("a", moving=MOST_COEFFICIENTS // 100, outputs=1).samples(1000) == 100
    assert view("a", moving=MOST_COEFFICIENTS, hidden=False).samples(1000) == 1000


def test_biases_may_rise_far_enough_to_revive_the_dead() -> None:
    """The box for biases is the radius, or what reaches beyond the deepest dead unit."""
    assert view("a").bias_radius(0.5) == 0.5
    assert view("a", lift=10.0).bias_radius(0.5) > 10.0


def network() -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    inputs = torch.rand(200, 3)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Hardtanh(), nn.Linear(4, 2))
    return model.eval(), (inputs, inputs[:, :2])


def test_a_survey_counts_dead_and_nearly_dead_units() -> None:
    """Counted from activations: a ReLU that is never positive, and a Hardtanh that is always beyond its kinks."""
    model, data = network()
    with torch.no_grad():
        model[0].bias[:2] = -10.0  # type: ignore[operator, index, union-attr]
        first = model[0](data[0])[:, 2]
        model[0].bias[2] -= first.sort().values[-2]  # type: ignore[operator, index, union-attr]
        model[2].bias[0] = 50.0  # type: ignore[operator, index, union-attr]
    views = {
        found.name: found for found in survey(seen(model, *data), gradients={"0": 0.25}, tail_moves=True, whole=False)
    }
    assert (views["0"].dead, views["0"].nearly_dead, views["2"].dead) == (2, 1, 1)
    assert [found.hidden for found in views.values()] == [True, True, False]
    assert (views["0"].gradient, views["2"].gradient) == (0.25, None)
    assert views["0"].moving == 5 * 4 + 2 * 5
    assert 8.0 < views["0"].lift < 12.0


def test_gradients_are_in_units_of_the_weights() -> None:
    """Layers without a gradient are left out."""
    model, (inputs, targets) = network()
    names = dict.fromkeys(("0", "2", "4"))
    assert relative_gradients(model, names) == {}
    nn.functional.mse_loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    found = relative_gradients(model, names)
    layer = model[4]
    assert isinstance(layer, nn.Linear)
    assert layer.weight.grad is not None
    assert found["4"] == pytest.approx(float(layer.weight.grad.norm() / layer.weight.detach().norm()))
