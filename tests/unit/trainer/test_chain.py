"""What follows a layer is proposed from what was seen, and believed only after the layer has been moved."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainer.models import Made, classes, seen, used
from trainer.errors import CaptureError
from trainer.snapshots.capture import Captured, Look, Plan

F = nn.functional
Function = Callable[[Tensor], Tensor]


def net(function: Function, *, width: int = 2, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The issue's 3-2-2 network with a function between its layers."""
    return Made(
        lambda parts, x: parts.last(function(parts.first(x))), first=nn.Linear(3, width), last=nn.Linear(width, 2)
    ).to(dtype)


def found(look: Look, name: str) -> str:
    """The activation behind a layer, or "refused"."""
    return str(look.captured[name].block.layer.activation) if name in look.captured else "refused"


KNOWN: list[tuple[Function, str]] = [
    (F.relu, "relu"),
    (lambda x: F.leaky_relu(x, 0.2), "leaky_relu:0.2"),
    (F.hardtanh, "hardtanh"),
    (F.gelu, "gelu"),
    (F.silu, "silu"),
    (torch.tanh, "tanh"),
    (torch.sigmoid, "sigmoid"),
    (F.softplus, "softplus"),
    (F.elu, "elu"),
    (lambda x: x, "identity"),
    (lambda x: x.clamp_(min=0), "relu"),
    (lambda x: x.sigmoid_(), "sigmoid"),
]


@pytest.mark.parametrize(("function", "name"), KNOWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_functional_activations_are_known_by_their_values(function: Function, name: str, dtype: torch.dtype) -> None:
    """In 30 of 30 networks as small as 3-2-2, in place or not, in either precision."""
    recognised = []
    for seed in range(30):
        torch.manual_seed(seed)
        model = net(function, dtype=dtype)
        inputs, targets = classes(64, width=3, kinds=2)
        recognised.append(found(seen(model, inputs.to(dtype), targets, layers=["first"]), "first"))
    assert set(recognised) == {name}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (F.relu6, "relu6"),
        (lambda x: x.clamp(0, 1), r"a clamp to \[0, 1\]"),
        (F.hardswish, "hardswish"),
        (F.mish, "mish"),
        (lambda x: F.gelu(x, approximate="tanh"), "tanh approximation"),
        (torch.square, "something else is computed"),
        (lambda x: F.layer_norm(x, (2,)), "something else is computed"),
    ],
)
def test_what_a_job_cannot_hold_is_refused_by_name(function: Function, reason: str) -> None:
    """The refusal says what stands between the layers, and what to do."""
    for seed in range(10):
        torch.manual_seed(seed)
        inputs, targets = classes(64, width=3, kinds=2)
        refused = seen(net(function), inputs, targets).refused
        assert re.search(rf"{reason}.*choose a later layer", refused["first"])


def chain(taken: Captured) -> list[str]:
    """The activations along a chain."""
    return [str(layer.activation) for layer in taken.block.layers]


@pytest.mark.parametrize("module", [nn.ReLU(inplace=True), nn.LeakyReLU(0.1, inplace=True), nn.PReLU(), nn.Hardtanh()])
def test_modules_in_place_are_no_trouble(module: nn.Module) -> None:
    """What a layer puts out is copied before the next module overwrites it."""
    look = seen(nn.Sequential(nn.Linear(6, 8), module, nn.Dropout(0.5), nn.Linear(8, 4)), *classes())
    assert not look.refused
    expected = {"ReLU": "relu", "LeakyReLU": "leaky_relu:0.1", "PReLU": "leaky_relu:0.25", "Hardtanh": "hardtanh"}
    assert chain(look.captured["0"]) == [expected[type(module).__name__], "identity"]


def test_batch_normalisation_is_folded() -> None:
    """Before the activation into the layer, behind it into the next one, which then stays where it is."""
    torch.manual_seed(0)
    before = used(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)))
    behind = used(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 4)))
    layer = seen(before, *classes()).captured["0"].block.layer
    assert (layer.before, str(layer.activation)) == ("1", "relu")
    block = seen(behind, *classes()).captured["0"].block
    assert (block.tail[0].enters, block.tail[0].fixed) == ("2", True)


def test_normalisation_over_units_or_the_batch_is_refused() -> None:
    """It mixes units or samples; the last layer can still be tunnelled."""
    for norm in (nn.LayerNorm(8), nn.BatchNorm1d(8, track_running_stats=False)):
        look = seen(nn.Sequential(nn.Linear(6, 8), norm, nn.ReLU(), nn.Linear(8, 4)), *classes())
        assert type(norm).__name__ in look.refused["0"]
        assert list(look.captured) == ["3"]


def residual(function: Callable[..., Tensor]) -> nn.Module:
    """A network with a block b, c of width 8 whose inputs `function` brings past it."""
    torch.manual_seed(0)
    parts = {"a": nn.Linear(6, 8), "b": nn.Linear(8, 8), "c": nn.Linear(8, 8), "d": nn.Linear(8, 4)}
    return Made(lambda net, x: function(net, F.relu(net.a(x))), **parts)


def test_residual_paths_are_constant_offsets() -> None:
    """Past the block, before an activation, or up to the output: each sample's share stays what it is."""
    around = seen(residual(lambda net, h: net.d(h + net.c(F.relu(net.b(h))))), *classes())
    last = around.captured["b"].block.tail[-1]
    assert (last.name, last.offset, last.fixed) == ("d", True, True)
    assert around.captured["b"].movable == (True, False)
    inside = seen(residual(lambda net, h: net.d(F.relu(h + net.c(F.relu(net.b(h)))))), *classes())
    tail = inside.captured["b"].block.tail
    assert [layer.source for layer in tail] == [("taken_in", "b"), None]
    assert chain(inside.captured["b"]) == ["relu", "relu", "identity"]
    beyond = seen(residual(lambda net, h: net.d(net.c(F.relu(net.b(h)))) + h[:, :4]), *classes())
    assert beyond.captured["d"].block.layer.offset
    for look in (around, inside, beyond):
        assert "a" in look.refused, "the path past the block starts at a, and moves with it"


def test_what_depends_on_the_layer_in_another_way_is_found_out() -> None:
    """Attention, gates, scaled outputs, a path around that is not constant: refused, with a reason for each."""
    torch.manual_seed(0)
    linear = nn.Linear
    gated = Made(lambda net, x: net.c(F.silu(net.b(x)) * net.a(x)), a=linear(6, 8), b=linear(6, 8), c=linear(8, 4))
    scaled = Made(lambda net, x: 3 * torch.tanh(net.c(F.relu(net.a(x))) / 3), a=linear(6, 8), c=linear(8, 4))
    mixed = Made(lambda net, x: net.c(F.relu(net.a(x) @ net.a.weight[:8, :8].T)), a=linear(8, 8), c=linear(8, 4))
    assert set(seen(gated, *classes()).captured) == {"c"}
    assert set(seen(scaled, *classes()).refused) == {"a", "c"}
    assert set(seen(mixed, *classes(width=8)).captured) == {"c"}


def test_attention_is_refused_and_what_comes_behind_it_is_not() -> None:
    """Each token is a sample for the layers that work on tokens."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(net: Made, x: Tensor) -> Tensor:
        mixed = net.attention(*[net.a(x)] * 3)[0]  # type: ignore[operator]
        return net.c(F.gelu(net.b(mixed)))  # type: ignore[operator,no-any-return]

    model = Made(forward, a=nn.Linear(6, 8), attention=attention, b=nn.Linear(8, 8), c=nn.Linear(8, 4))
    look = seen(model, torch.randn(100, 5, 6), torch.randint(0, 4, (100, 5)))
    assert set(look.captured) == {"b", "c"}
    assert "used 0 times" in look.refused["attention.out_proj"]
    assert look.captured["b"].whole.samples == 500


def test_tied_weights_do_not_move() -> None:
    """A head that is also the embedding is refused; a layer before it sees it as fixed."""
    torch.manual_seed(0)
    embedding, head = nn.Embedding(20, 8), nn.Linear(8, 20)
    head.weight = embedding.weight
    model = Made(lambda net, x: net.head(F.relu(net.a(net.e(x)))), e=embedding, a=nn.Linear(8, 8), head=head)
    look = seen(model, torch.randint(0, 20, (50, 7)), torch.randint(0, 20, (50, 7)))
    assert "is tied: its weight is also 'e.weight'" in look.refused["head"]
    assert look.captured["a"].movable == (False,)


def test_layers_used_twice_lazy_or_parametrized_are_refused() -> None:
    """Each with its reason; the others can be tunnelled."""
    shared = nn.Linear(6, 6)
    twice = seen(nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(6, 4)), *classes())
    assert "used 2 times" in twice.refused["0"]
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))
    assert "parametrized" in seen(nn.Sequential(normed, nn.ReLU(), nn.Linear(8, 4)), *classes()).refused["0"]


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_model_is_not_run() -> None:
    """A look must not be what brings its weights into being."""
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(CaptureError, match="run it once before"):
        seen(model, *classes())


def test_outputs_may_be_probabilities() -> None:
    """A softmax or sigmoid at the end changes no winner: jobs see the scores before it."""
    torch.manual_seed(0)
    body = [nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)]
    for end, link in ((nn.LogSoftmax(1), "log_softmax"), (nn.Softmax(1), "softmax")):
        block = seen(nn.Sequential(*body, end), *classes()).captured["0"].block
        assert (block.link, str(block.tail[-1].activation)) == (link, "identity")
    logit = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    inputs, targets = classes(kinds=2)
    assert seen(logit, inputs, targets).captured["0"].block.link == "sigmoid"


def test_the_tail_may_be_described_and_is_checked() -> None:
    """A tail that the user gives stands for what is seen; a wrong one is found out."""
    torch.manual_seed(0)
    model, (inputs, targets) = net(F.relu, width=5), classes(width=3, kinds=2)
    right = Plan(tail=(nn.ReLU(), "last"))
    assert chain(seen(model, inputs, targets, right, layers=["first"]).captured["first"]) == ["relu", "identity"]
    wrong = Plan(tail=(nn.LeakyReLU(0.2), "last"))
    refused = seen(model, inputs, targets, wrong, layers=["first"]).refused["first"]
    assert "does not lead to the model's output" in refused
    unknown = Plan(tail=("nothing",))
    assert "is no linear layer" in seen(model, inputs, targets, unknown, layers=["first"]).refused["first"]


def test_convolutions_are_layers_where_they_are_linear() -> None:
    """Of size 1 each pixel is a sample; one as large as its input is a linear layer; others are refused."""
    torch.manual_seed(0)
    pixels = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    look = seen(pixels, torch.randn(40, 3, 5, 5), torch.randint(0, 4, (40, 5, 5)))
    assert set(look.captured) == {"2", "4"}
    assert look.captured["2"].whole.samples == 1000
    assert "groups or padding" in look.refused["0"]
    whole = nn.Sequential(nn.Conv2d(2, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4))
    assert seen(whole, torch.randn(40, 2, 4, 4), torch.arange(40) % 4).captured["0"].weight.shape == (3, 32)
    assert "too large" in seen(whole[:1].append(nn.Flatten()).append(nn.Linear(27, 4)), *spread()).refused["0"]


def spread() -> tuple[Tensor, Tensor]:
    """Images larger than the kernel."""
    return torch.randn(40, 2, 6, 6), torch.arange(40) % 4


def test_wrapped_models_are_looked_into() -> None:
    """Compiled models run eagerly while they are looked at, and are not compiled anew."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    compiled = torch.compile(model, backend="eager")
    compiled(classes()[0])
    assert set(seen(compiled, *classes()).captured) == {"0", "2"}  # type: ignore[arg-type]
    assert set(seen(nn.DataParallel(model), *classes()).captured) == {"0", "2"}


def test_a_layer_of_dead_units_is_seen_through() -> None:
    """Where nothing moves the output, the layer is moved so far that it does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    nn.init.constant_(model[0].bias, -50.0)
    assert chain(seen(model, *classes()).captured["0"]) == ["relu", "relu", "identity"]
    assert (seen(model, *classes()).captured["0"].active == 0).all()


def test_auxiliary_heads_are_not_the_output() -> None:
    """Of several outputs the first counts; a layer that leads elsewhere is refused."""
    torch.manual_seed(0)

    def forward(net: Made, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(net.a(x))  # type: ignore[operator]
        return net.b(hidden), net.c(hidden)  # type: ignore[operator]

    look = seen(Made(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 4), c=nn.Linear(8, 4)), *classes())
    assert set(look.captured) == {"a", "b"}
    assert [layer.name for layer in look.captured["a"].block.tail] == ["b"]


def test_outputs_far_from_zero_do_not_hide_a_wrong_chain() -> None:
    """How outputs move is compared with how the chain moves, not with their size."""
    torch.manual_seed(0)
    model = Made(
        lambda net, x: 1000.0 + 1e-2 * torch.sin(net.b(F.relu(net.a(x)))), a=nn.Linear(6, 8), b=nn.Linear(8, 1)
    )
    inputs, _ = classes()
    assert not seen(model, inputs, inputs[:, :1]).captured
