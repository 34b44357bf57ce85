"""Parameters that a validation or a forward pass gives other memory: they are as before, memory included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Tunneller
from trainer.model.live import live, written
from trainer.restoring.held import Held, memory_kept

functional = nn.functional
generator = torch.Generator().manual_seed(1)
X = torch.randn(200, 6, generator=generator)
Y = (X @ torch.randn(6, 4, generator=generator)).argmax(1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def loss(model: nn.Module, inputs: Tensor = X) -> float:
    with torch.no_grad():
        return functional.cross_entropy(model(inputs), Y).item()


def tunneller(model: nn.Module, **options: Any) -> Tunneller:
    """One whose every answer is rejected."""
    settings: dict[str, Any] = {"client": FakePool(least_squares).client(), "mode": "min", "patience": 1, "cooldown": 0}
    settings |= {"validate": lambda: loss(model), "sync": True, "min_delta": 1e9, "radius": 0.5}
    settings |= {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    return Tunneller(model, **(settings | options))


def kept(model: nn.Module) -> Callable[[], bool]:
    """Whether all parameters have the memory and the bits that they have now."""
    before = [(one, one.data_ptr(), one.dtype, one.detach().clone()) for one in model.parameters()]
    return lambda: all(
        (one.data_ptr(), one.dtype) == (place, dtype) and torch.equal(one, values)
        for one, place, dtype, values in before
    )


# --- in a validation --------------------------------------------------------------------------------------------------


def swapped(model: nn.Module) -> float:
    """As classes that keep an average of the weights do it: others in, and the old ones back as a copy."""
    backup = [one.data.clone() for one in model.parameters()]
    for one in model.parameters():
        one.data = one.data * 0.9
    score = loss(model)
    for one, old in zip(model.parameters(), backup, strict=True):
        one.data = old
    return score


def in_double(model: nn.Module) -> float:
    model.double()
    score = loss(model, X.double())
    model.float()
    return score


def in_half(model: nn.Module) -> float:
    """What comes back has lost digits."""
    model.half()
    model.float()
    return loss(model)


def nearby(model: nn.Module) -> float:
    """The loss in the neighbourhood, to see how sharp a minimum is."""
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(flat + 0.01, model.parameters())
    score = loss(model)
    nn.utils.vector_to_parameters(flat, model.parameters())
    return score


def left_there(model: nn.Module) -> float:
    """Not undone at all."""
    for one in model.parameters():
        one.data = torch.zeros_like(one)
    return loss(model)


@pytest.mark.parametrize("validate", [swapped, in_double, in_half, nearby, left_there])
def test_a_rejected_answer_does_not_stay(validate: Callable[[nn.Module], float]) -> None:
    """Whatever memory the validation has left the parameters with."""
    model = network()
    with tunneller(model, validate=lambda: validate(model)) as made:
        unchanged = kept(model)
        for _ in range(3):
            made.observe(X, Y)
            assert not made.step(1.0)
            assert unchanged()
        assert [event.kind for event in made.history].count("rejected")


def test_what_waits_for_its_backward_pass_is_not_disturbed() -> None:
    """A graph that holds the old memory finds the old values there."""
    model = network()
    graph = functional.cross_entropy(model(X), Y)
    with written(model, {"2.weight": torch.ones(4, 8)}):
        swapped(model)
    graph.backward()
    other = network()
    functional.cross_entropy(other(X), Y).backward()
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad) for a, b in pairs)


def test_what_has_no_memory_is_left_alone() -> None:
    """Sparse tensors, those on the meta device, and types that cannot be compared."""
    for value in (torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.ones(3).to(torch.float8_e4m3fn)):
        held = Held.of(value, content=True)
        assert not held.moved
        assert not held.changed
        held.put_back()


def test_memory_is_put_back_in_inference_mode() -> None:
    """A part of a larger tensor, too, as in a flat buffer: the parameter can be trained on, in its memory."""
    flat = torch.arange(40.0)
    model = nn.Linear(4, 3)
    model.weight.data = flat[5:35].view(3, 10)[:, ::3]
    unchanged = kept(model)
    with torch.inference_mode(), memory_kept(model):
        for one in model.parameters():
            one.data = torch.zeros(2, dtype=torch.float64)
    assert unchanged()
    assert model.weight.stride() == (10, 3)
    model(torch.ones(1, 4)).sum().backward()
    model.weight.data.zero_()
    assert flat[5] == 0


# --- in a forward pass ------------------------------------------------------------------------------------------------


class Limited(nn.Module):
    """Limits the norm of its weights in `forward`, as EEGNet does: with new memory, or in the old one."""

    def __init__(self, most: float, *, in_place: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.most, self.in_place = most, in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.head.weight.data.renorm_(2, 0, self.most)
        else:
            self.head.weight.data = torch.renorm(self.head.weight.data, 2, 0, self.most)
        result: Tensor = self.head(self.body(x).relu())
        return result


@pytest.mark.parametrize("most", [100.0, 0.1])
@pytest.mark.parametrize("in_place", [False, True], ids=["new", "in place"])
def test_the_first_look_leaves_weights_as_they_are(most: float, in_place: bool) -> None:
    """It stretches them, and the model limits what was stretched."""
    model = Limited(most, in_place=in_place)
    with tunneller(model) as made:
        unchanged = kept(model)
        made.observe(X, Y)
        assert unchanged()


def test_what_a_pass_moves_is_put_back_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old memory holds the old values, however large it is."""
    monkeypatch.setattr("trainer.restoring.tensors.MOST_ELEMENTS", 10)
    model = Limited(0.1)
    unchanged = kept(model)
    with live(model):
        model(X)
        assert not unchanged()
    assert unchanged()


@pytest.mark.parametrize("in_place", [False, True], ids=["new", "in place"])
def test_a_run_of_a_model_that_limits_its_weights_is_the_same_bits(in_place: bool) -> None:
    """Looks, trials and rejected answers included."""

    def run(*, tunnelled: bool) -> Limited:
        model = Limited(0.5, in_place=in_place)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        made = tunneller(model, optimizer=optimizer) if tunnelled else None
        for _ in range(4):
            if made:
                made.observe(X, Y)
            optimizer.zero_grad()
            functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            if made:
                made.step(1.0)
        if made:
            made.close()
        return model

    plain, other = run(tunnelled=False).state_dict(), run(tunnelled=True).state_dict()
    assert all(torch.equal(plain[name], other[name]) for name in plain)


# --- weights that are computed ----------------------------------------------------------------------------------------


class Half(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * weight


@pytest.mark.parametrize("call", ["observe", "step"])
def test_a_loop_may_cache_its_parametrized_weights(call: str) -> None:
    """What a look or a validation computes without gradients is not what the loop trains with."""
    model = network()
    parametrize.register_parametrization(model[0], "weight", Half())
    with tunneller(model) as made, parametrize.cached():
        made.observe(X, Y) if call == "observe" else made.step(1.0)
        functional.cross_entropy(model(X), Y).backward()
        before = model[0].weight
        made.step(1.0)
        assert model[0].weight is before
    assert model[0].parametrizations.weight.original.grad is not None
