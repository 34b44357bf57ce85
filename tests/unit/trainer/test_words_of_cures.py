"""What cannot be done is said with a cure for just that, and the cure works."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from gdsolver import Tunneller
from tests.unit.trainer.fakes import FakePool, least_squares
from trainer.errors import CaptureError, OptimizerError

GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(60, 6, generator=GENERATOR)
Y = (X @ torch.randn(6, 4, generator=GENERATOR)).argmax(dim=1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def loss(model: Callable[[Tensor], Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(X).float(), Y)


def tunneller(model: nn.Module, optimizer: Any = None, **options: Any) -> Tunneller:
    """One that tunnels at every check."""
    settings: dict[str, Any] = {"mode": "min", "patience": 1, "cooldown": 0, "sync": True, "radius": 10.0}
    settings |= {"client": FakePool(least_squares).client(), "validate": lambda: loss(model).item()} | options
    return Tunneller(model, optimizer=optimizer or Adam(model.parameters(), lr=1e-3), **settings)


# --- models that torch.jit has compiled -------------------------------------------------------------------------------


class Parts(nn.Module):
    """Scripted parts in a module that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = torch.jit.script(network()[:2]), torch.jit.script(network()[2])

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "make",
    [lambda: torch.jit.script(network()), lambda: torch.jit.trace(network(), X), Parts],
    ids=["script", "trace", "parts"],
)
def test_compiled_layers_are_named(make: Callable[[], nn.Module]) -> None:
    """Whether all of a model is scripted, or each of its parts."""
    with pytest.raises(CaptureError, match=r"torch\.jit.*give the Tunneller the module that it was made from"):
        tunneller(make())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_module_that_was_scripted_is_tunnelled() -> None:
    """While the scripted one trains: both have the same parameters."""
    plain = network()
    scripted = torch.jit.script(plain)
    with tunneller(plain, Adam(scripted.parameters(), lr=1e-3), data=(X, Y)) as made:
        for _ in range(3):
            made.step(1.0)
        assert made.summary().adopted > 0
    assert torch.equal(plain(X), scripted(X))


def test_a_model_without_layers_is_told_as_ever() -> None:
    """No word of compiling where nothing is compiled."""
    with pytest.raises(CaptureError, match=r"tunnels linear layers$"):
        tunneller(nn.Sequential(nn.Conv1d(1, 1, 1)))


# --- several optimizers -----------------------------------------------------------------------------------------------


class Together:
    """Steps several optimizers, as people write it."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = list(optimizers)

    def step(self) -> None:
        for one in self.optimizers:
            one.step()


@pytest.mark.parametrize("form", [list, tuple, lambda pair: dict(enumerate(pair)), lambda pair: Together(*pair)])
def test_several_optimizers_are_told_which_one_to_give(form: Callable[[Any], Any]) -> None:
    """In whatever they are handed over."""
    model = network()
    pair = [SGD(model[0].parameters(), lr=1e-3), Adam(model[2].parameters(), lr=1e-3)]
    with pytest.raises(OptimizerError, match="2 optimizers; give the one that holds the layer to tunnel"):
        tunneller(model, form(pair))


def test_the_optimizer_that_holds_the_layer_is_enough() -> None:
    """The other one steps on beside it."""
    model = network()
    body, head = SGD(model[0].parameters(), lr=1e-3), Adam(model[2].parameters(), lr=1e-3)
    with tunneller(model, head, data=(X, Y)) as made:
        for _ in range(4):
            for one in (body, head):
                one.zero_grad()
            loss(model).backward()
            for one in (body, head):
                one.step()
            made.step(1.0)
        assert made.summary().adopted > 0


@pytest.mark.parametrize(("held", "missing"), [("weight", "bias"), ("bias", "weight")])
def test_a_layer_in_two_optimizers_is_told_what_to_do(held: str, missing: str) -> None:
    """Weights in Muon, biases in AdamW: one of them has to hold all of the layer."""
    model = network()
    some = SGD([part for name, part in model.named_parameters() if name.endswith(held)], lr=1e-3)
    told = f"the optimizer does not hold its {missing}.*if another one does, as AdamW beside Muon, let one hold both"
    with pytest.raises(CaptureError, match=told):
        tunneller(model, some)


# --- models that run only under autocast ------------------------------------------------------------------------------


class Half(nn.Module):
    """A body in another type than the head, which autocast alone brings together."""

    def __init__(self, *, enters: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.enters = nn.Linear(6, 8).bfloat16(), nn.Linear(8, 4), enters

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.enters or torch.is_autocast_enabled("cpu")):
            found: Tensor = self.head(self.body(x).relu())
        return found


def test_models_that_need_autocast_are_told_where_to_enter_it() -> None:
    """The words name both cures, and either works."""
    with tunneller(Half(), validate=lambda: 1.0) as made:
        made.observe(X, Y)
        assert "runs under torch.autocast alone" in made.plan
        assert "call observe and step inside it" in made.plan
        assert "forward enter it" in made.plan
    for model in (Half(), Half(enters=True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=not model.enters), tunneller(model) as made:
            made.observe(X, Y)
            assert made.plan.startswith("tunnels")
            made.step(1.0)
            made.step(1.0)
            assert [event.kind for event in made.history if event.kind == "failed"] == []


def test_models_that_fail_in_autocast_as_well_are_told_as_ever() -> None:
    """It is no cure for an input of another size."""
    with tunneller(network(), validate=lambda: 1.0) as made:
        made.observe(torch.randn(60, 5), Y)
        assert "autocast" not in made.plan
        assert "cannot be run" in made.plan


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_tunneller_says_why_there_is_no_copy_of_it(copied: Callable[[Any], Any]) -> None:
    """By itself or in what holds it; what may be copied is named."""
    told = r"a Tunneller cannot be copied.*state_dict\(\)"
    with tunneller(network()) as made:
        with pytest.raises(TypeError, match=told):
            copied(made)
        if copied is not copy.copy:
            with pytest.raises(TypeError, match=told):
                copied({"callbacks": [made]})


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("loader", [[(X, Y)], iter([(X, Y)]), {(1, 2)}])
def test_a_watched_loader_says_what_to_copy(copied: Callable[[Any], Any], loader: Any) -> None:
    """Of every kind: the loader itself can be copied, and watched again."""
    with tunneller(network()) as made:
        watched = made.watch(loader)
        with pytest.raises(TypeError, match=r"copy the loader itself, and give that to watch\(\)"):
            copied(watched)


def test_what_a_tunneller_tells_can_be_copied() -> None:
    """Its history and summary are plain values."""
    with tunneller(network(), data=(X, Y)) as made:
        made.step(1.0)
        made.step(1.0)
        assert copy.deepcopy(made.history) == pickle.loads(pickle.dumps(made.history)) == made.history


# --- weights that are normalised before each forward -----------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1])
def test_weights_that_are_normalised_before_each_pass_are_not_called_swapped(
    dim: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As SwAV's prototypes are: no averaged weights are put back, and the layer is left alone from then on."""
    model = network()
    head, optimizer = model[2].weight, SGD(model.parameters(), lr=0.1)
    made = tunneller(model, optimizer, data=(X, Y), min_delta=0.0)
    for _ in range(8):
        with torch.no_grad():
            head.copy_(nn.functional.normalize(head, dim=dim))
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        made.step(1.0)
    made.close()
    assert [event.kind for event in made.history].count("adopted") == 1
    assert [event.kind for event in made.history].count("undone") == 1
    assert "EMA" not in caplog.text
    assert "scales its" in caplog.text
    assert "set back" not in caplog.text
