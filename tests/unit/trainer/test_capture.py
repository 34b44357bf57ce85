"""Snapshots of real models: what is found behind a layer, and the way back into the model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shared.objectives import outputs
from trainer.errors import CaptureError
from trainer.snapshots.blocks import find_layer, trace_block
from trainer.snapshots.capture import Plan, capture
from trainer.snapshots.projection import clip_to_box, project
from trainer.snapshots.samples import open_source


class Functional(nn.Module):
    """The paper's shape: the ReLU is a function call and leaves no module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.relu(self.first(x)))


def mlp(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 4)).eval()


def classes(count: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % 4


def test_the_last_linear_layer_is_the_default() -> None:
    """Without a choice, the paper's case: the final layer; a name or a module chooses another."""
    model = mlp()
    assert find_layer(model) == "3"
    assert find_layer(model, "0") == find_layer(model, model[0]) == "0"


def test_a_model_without_linear_layers_is_refused() -> None:
    """The error says what is needed; a wrong name is answered with the names there are."""
    with pytest.raises(CaptureError, match=r"no nn\.Linear"):
        find_layer(nn.Sequential(nn.Conv2d(1, 1, 1)))
    with pytest.raises(CaptureError, match="it has: 0, 3"):
        find_layer(mlp(), "9")


def test_a_snapshot_scores_like_the_model() -> None:
    """For every layer that can be the block, the snapshot's outputs are the model's."""
    model, data = mlp(), classes()
    for layer in ("0", "3"):
        taken = capture(model, open_source(data), Plan(layer), np.random.default_rng(0)).snapshot
        with torch.no_grad():
            expected = model(data[0]).double().numpy()
        np.testing.assert_allclose(outputs(taken, taken.weight, taken.bias), expected, atol=1e-5)


def test_functional_relus_are_inferred_and_checked() -> None:
    """A ReLU that is only a function call is found by comparing outputs."""
    block = trace_block(Functional().eval(), "first", torch.rand(5, 3))
    assert str(block.layer.activation) == "relu"
    assert [layer.name for layer in block.tail] == ["last"]


@pytest.mark.parametrize(
    ("behind", "named"),
    [(nn.LeakyReLU(0.1), "leaky_relu:0.1"), (nn.Hardtanh(), "hardtanh"), (nn.Identity(), "identity")],
)
def test_activations_are_read(behind: nn.Module, named: str) -> None:
    """Piecewise-linear activations travel under their wire names."""
    model = nn.Sequential(nn.Linear(3, 4), behind, nn.Linear(4, 2)).eval()
    assert str(trace_block(model, "0", torch.rand(5, 3)).layer.activation) == named


def test_a_softmax_at_the_end_does_not_matter() -> None:
    """Log-probabilities have the same winners as the scores before them."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LogSoftmax(dim=1)).eval()
    assert trace_block(model, "0", torch.rand(5, 3)).tail == ()


@pytest.mark.parametrize("behind", [nn.Sigmoid(), nn.BatchNorm1d(4), nn.Hardtanh(0, 1)])
def test_other_layers_behind_the_block_are_refused(behind: nn.Module) -> None:
    """What the solver cannot model exactly is not modelled at all."""
    model = nn.Sequential(nn.Linear(3, 4), behind, nn.Linear(4, 2)).eval()
    with pytest.raises(CaptureError, match="choose a later layer"):
        trace_block(model, "0", torch.randn(50, 3))


def test_a_layer_used_twice_is_refused() -> None:
    """Shared layers would change in two places at once."""
    shared = nn.Linear(3, 3)
    with pytest.raises(CaptureError, match="used 2 times"):
        trace_block(nn.Sequential(shared, shared).eval(), "0", torch.rand(4, 3))


def test_capturing_leaves_no_trace_on_the_model() -> None:
    """Hooks are removed and parameters unchanged."""
    model = mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, open_source(classes()), Plan(), np.random.default_rng(0))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_regression_targets_stay_floats() -> None:
    """Floating-point targets make a regression snapshot."""
    inputs, _ = classes()
    taken = capture(mlp(), open_source((inputs, torch.rand(40, 4))), Plan(samples=20), np.random.default_rng(0))
    assert taken.snapshot.task == "regression"
    assert taken.snapshot.samples == 20


def answer(weight: np.ndarray, bias: np.ndarray | None, **tail: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(weight=weight, bias=bias, tail={name.replace("_", "."): v for name, v in tail.items()})


def test_an_answer_lands_on_the_parameters_inside_the_box() -> None:
    """Weights outside the radius are clipped; names are the model's own; a moved tail comes along."""
    taken = capture(mlp(), open_source(classes()), Plan("0"), np.random.default_rng(0))
    parcel = taken.pack(0.1)
    own = taken.snapshot.weight
    moved = parcel.unpack(answer(own + 5, taken.snapshot.bias, tail_0_weight=np.ones((4, 8), np.float32)))  # type: ignore[arg-type]
    assert set(moved) == {"0.weight", "0.bias", "3.weight"}
    assert np.abs(moved["0.weight"].numpy().astype(np.float64) - own).max() <= 0.1


def test_a_projected_answer_stays_in_the_box_and_round_trips() -> None:
    """A wide layer travels as a few directions; any answer within their radii keeps every weight in its box."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 4)).eval()
    taken = capture(model, open_source(classes(60)), Plan(project_above=100, directions=10), np.random.default_rng(0))
    parcel = taken.pack(0.05)
    sent = parcel.snapshot
    assert sent.inputs.shape == (60, 10)
    assert parcel.spec_radius is None
    assert sent.radius is not None
    corner = sent.radius * np.random.default_rng(0).choice([-1.0, 1.0], sent.radius.shape)
    bias = np.full(4, 0.05, np.float32)
    moved = parcel.unpack(answer(corner.astype(np.float32), bias))  # type: ignore[arg-type]
    change = moved["2.weight"].numpy().astype(np.float64) - taken.snapshot.weight
    assert 0 < np.abs(change).max() <= 0.05
    new = {**model.state_dict(), **moved}
    model.load_state_dict(new)
    with torch.no_grad():
        scores = model(classes(60)[0]).double().numpy()
    np.testing.assert_allclose(outputs(sent, corner.astype(np.float32), bias), scores, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.integers(2, 30), m=st.integers(1, 8), radius=st.floats(1e-4, 10))
def test_directions_are_orthonormal_and_radii_safe(seed: int, d: int, m: int, radius: float) -> None:
    """Whatever the inputs, `sum_l |P_jl| r_l <= radius` for every weight j."""
    inputs = np.random.default_rng(seed).normal(size=(20, d)) * np.random.default_rng(seed + 1).exponential(size=d)
    found = project(inputs, m, radius)
    np.testing.assert_allclose(found.directions.T @ found.directions, np.eye(found.directions.shape[1]), atol=1e-9)
    assert (np.abs(found.directions) @ found.radii).max() <= radius * (1 + 1e-9)
    assert found.radii.max() > 0


@given(centre=st.floats(-100, 100, width=32), radius=st.floats(1e-6, 10), pull=st.floats(-3, 3))
def test_clipping_is_exact(centre: float, radius: float, pull: float) -> None:
    """Rounded to float32, a weight is still inside the box (or where no float32 lies inside, at its centre's side)."""
    middle = np.array([centre], np.float32)
    clipped = clip_to_box(middle + pull * radius, middle, radius).astype(np.float64)
    assert abs(clipped[0] - float(middle[0])) <= radius


def test_a_single_logit_is_refused() -> None:
    """One output per class is needed; a lone logit is explained, not guessed at."""
    model = nn.Sequential(nn.Linear(6, 1)).eval()
    with pytest.raises(CaptureError, match="one output per class"):
        capture(model, open_source((classes()[0], torch.arange(40) % 2)), Plan(), np.random.default_rng(0))


class Leaky(nn.Module):
    """An activation that only the user can describe: a function with a slope of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.leaky_relu(self.first(x), 0.2))


def test_what_follows_a_layer_can_be_described() -> None:
    """A tail given by the user stands for what watching cannot show; a wrong one is found out."""
    torch.manual_seed(0)
    model, data = Leaky().eval(), classes()
    with pytest.raises(CaptureError, match="describe what follows with `tail`"):
        trace_block(model, "first", data[0])
    tail = (nn.LeakyReLU(0.2), "last")
    taken = capture(model, open_source(data), Plan("first", tail=tail), np.random.default_rng(0)).snapshot
    np.testing.assert_allclose(
        outputs(taken, taken.weight, taken.bias), model(data[0]).detach().double().numpy(), atol=1e-5
    )
    with pytest.raises(CaptureError, match="does not lead to the model's output"):
        trace_block(model, "first", data[0], [nn.ReLU(), "last"])


def test_a_convolution_over_its_whole_input_is_a_linear_layer() -> None:
    """Its kernels are rows. One at many places is too large, and says so; padding is not linear, either."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4)).eval()
    images = torch.randn(40, 2, 4, 4)
    source = open_source((images, torch.arange(40) % 4))
    taken = capture(model, source, Plan("0"), np.random.default_rng(0))
    assert taken.snapshot.weight.shape == (3, 32)
    expected = model(images).detach().double().numpy()
    np.testing.assert_allclose(outputs(taken.snapshot, taken.snapshot.weight, taken.snapshot.bias), expected, atol=1e-5)
    wide = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)).eval()
    with pytest.raises(CaptureError, match="too large: a convolution at 9 places has 27 units"):
        trace_block(wide, "0", images)
    padded = nn.Sequential(nn.Conv2d(2, 3, 6, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4)).eval()
    with pytest.raises(CaptureError, match="groups or padding"):
        trace_block(padded, "0", images)
