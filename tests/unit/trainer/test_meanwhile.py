"""What a loop may do between a stall and its answer, or in its own validation: nothing of it breaks a promise."""

import copy
import json
import multiprocessing
import pickle
import random
import signal
import sys
import warnings
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Tunneller
from trainer.adoption import ranks
from trainer.adoption.validation import ScoreTrust
from trainer.errors import CaptureError
from trainer.restoring.draws import draws_kept, within_reach
from trainer.stalls.detector import StallDetector

functional = nn.functional
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(300, 6, generator=GENERATOR)
Y = (X @ torch.randn(6, 4, generator=GENERATOR) + 0.8 * torch.randn(300, 4, generator=GENERATOR)).argmax(dim=1)
HELD = slice(200, 300)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float(functional.cross_entropy(model(X[HELD]), Y[HELD]))


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(X[HELD]).argmax(dim=1) == Y[HELD]).float().mean())


def descend(model: nn.Module, optimizer: Any) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(model(X[:200]), Y[:200]).backward()
    optimizer.step()


def tunneller(model: nn.Module, optimizer: Any, pool: FakePool | None = None, **options: Any) -> Tunneller:
    settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "mode": "min", "validate": lambda: loss(model)}
    settings |= {"data": (X[:200], Y[:200]), "radius": 0.3, "client": (pool or FakePool(least_squares)).client()}
    return Tunneller(model, optimizer=optimizer, **settings | options)


# --- scores that are not the model's --------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2, 4])
def test_nothing_is_adopted_on_the_score_of_an_earlier_epoch(every: int) -> None:
    """A loop measures now and then and hands on what it knows; each adoption is better by `validate` all the same."""
    adoptions = 0
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        pool = FakePool(least_squares)
        made = tunneller(model, optimizer, pool, validate=lambda: accuracy(model), mode="max", radius=0.1, sync=True)  # noqa: B023
        score = 0.0
        for epoch in range(40):
            descend(model, optimizer)
            before = accuracy(model)
            score = before if epoch % every == 0 else score
            if made.step(score):
                adoptions += 1
                event = [event for event in made.history if event.kind == "adopted"][-1]
                assert accuracy(model) > before
                assert event.before is not None
                assert event.after == pytest.approx(accuracy(model))
        made.close()
    assert adoptions > 3


def test_a_score_that_differed_once_is_not_believed_again() -> None:
    """Agreement by chance, later, does not count."""
    trust = ScoreTrust()
    for validated in (0.5, 0.5, 0.5):
        trust.compare(0.5, validated)
    assert trust.use(0.5) == 0.5
    trust.compare(0.5, 0.75)
    for _ in range(10):
        trust.compare(0.5, 0.5)
        assert trust.use(0.5) is None


# --- what may move, by now ------------------------------------------------------------------------------------------


def taken_out(model: nn.Sequential, optimizer: Any) -> None:
    optimizer.param_groups.pop()


def replaced(model: nn.Sequential, optimizer: Any) -> None:
    model[2] = nn.Linear(8, 4)


def shared(model: nn.Sequential, optimizer: Any) -> None:
    model.register_buffer("target_head", model[2].weight.detach())


def frozen(model: nn.Sequential, optimizer: Any) -> None:
    model[2].requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "told"),
    [(taken_out, "does not hold"), (replaced, "does not hold"), (shared, "is tied to"), (frozen, "is frozen")],
)
def test_what_may_not_move_by_now_is_left_alone(change: Callable[..., None], told: str) -> None:
    """The answer is rejected with the reason, and the layer may be tunnelled again once it may move."""
    model, pool = network(), FakePool(least_squares, held=True)
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.05)
    with tunneller(model, optimizer, pool) as made:
        for _ in range(3):
            descend(model, optimizer)
            made.step(1.0)
        change(model, optimizer)
        before = model[2].weight.detach().clone()
        pool.release.set()
        assert made._worker.idle.wait(20)
        assert not made.step(1.0)
        assert torch.equal(model[2].weight.detach(), before)
        event = next(event for event in made.history if event.kind == "rejected")
        assert told in str(event.detail)
        assert not made._turns.distrusted
        if change is frozen:
            model[2].requires_grad_(True)
            sent = len(pool.snapshots)
            for _ in range(3):
                made.step(1.0)
                assert made._worker.idle.wait(20)
            assert len(pool.snapshots) > sent


# --- optimizers of one's own ----------------------------------------------------------------------------------------


class Eager(torch.optim.Optimizer):
    """Makes its state when it is made."""

    def __init__(self, params: Any, lr: float = 0.01, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})
        for group in self.param_groups:
            for one in group["params"]:
                self.state[one] |= {"mean": torch.zeros_like(one), "scale": 1.0}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for one in group["params"]:
                mean = self.state[one]["mean"].mul_(group["beta"]).add_(one.grad, alpha=1 - group["beta"])
                one.add_(mean.sign(), alpha=-group["lr"] * self.state[one]["scale"])


class Picky(Eager):
    """Cannot be made from its defaults alone."""

    def __init__(self, params: Any, schedule: object) -> None:
        super().__init__(params)
        self.schedule = schedule


@pytest.mark.parametrize("make", [Eager, partial(Picky, schedule=object()), torch.optim.Adagrad, torch.optim.AdamW])
def test_an_optimizers_state_begins_anew_as_it_begins(make: Callable[..., Any]) -> None:
    """Where it is made with the optimizer it is there after an adoption, too."""
    model = network()
    optimizer = make(model.parameters())
    with tunneller(model, optimizer, sync=True) as made:
        adopted = 0
        for _ in range(8):
            descend(model, optimizer)
            if made.step(1.0):
                adopted += 1
                state = optimizer.state.get(model[2].weight, {})
                assert not any(value.any() for value in state.values() if isinstance(value, Tensor))
    assert adopted


class Anchored(torch.optim.Optimizer):
    """Pulls towards the weights that it began with, as FedProx does."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})
        for one in self.param_groups[0]["params"]:
            self.state[one]["anchor"] = one.detach().clone()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for one in self.param_groups[0]["params"]:
            one.add_(one.grad + one - self.state[one]["anchor"], alpha=-self.param_groups[0]["lr"])


class Unknown(Anchored):
    """Its schedule is kept under another name, so that it cannot be made anew."""

    def __init__(self, params: Any, schedule: object) -> None:
        super().__init__(params)
        self.planned = schedule


@pytest.mark.parametrize("make", [Anchored, partial(Unknown, schedule=object())], ids=["known", "unknown"])
def test_weights_that_an_optimizer_remembers_are_those_that_were_adopted(make: Callable[..., Any]) -> None:
    """Or the next step would pull the layer to where it came from, or to what happened to be in memory."""
    model = network()
    optimizer = make(model.parameters())
    with tunneller(model, optimizer, sync=True, first_after=2) as made:
        for _ in range(2):
            descend(model, optimizer)
            adopted = made.step(loss(model))
        assert adopted
        assert torch.equal(optimizer.state[model[2].weight]["anchor"], model[2].weight)
        assert not torch.equal(optimizer.state[model[2].weight]["anchor"], network()[2].weight)


class Scaled(torch.optim.Optimizer):
    """SGD over a scale of gradients that begins at 1, with momentum, over so many steps."""

    def __init__(self, params: Any, total_steps: int, *, eager: bool, schedule: object = None) -> None:
        super().__init__(params, {"lr": 1e-4})
        self.total_steps, self.is_eager, self.done = total_steps, eager, 0
        if schedule is None:
            self.eager = eager
        for one in self.param_groups[0]["params"] if eager else ():
            self._begin(one)

    def _begin(self, one: Tensor) -> None:
        self.state[one] |= {"grad_scale": torch.ones_like(one), "momentum": torch.zeros_like(one)}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.done += 1
        for one in self.param_groups[0]["params"]:
            if not self.state[one]:
                self._begin(one)
            self.state[one]["grad_scale"].mul_(0.99)
            self.state[one]["momentum"].lerp_(one.grad, 0.1)
            rate = self.param_groups[0]["lr"] * (1 - self.done / self.total_steps)
            one.add_(self.state[one]["momentum"] / self.state[one]["grad_scale"], alpha=-rate)


@pytest.mark.parametrize("schedule", [None, object()], ids=["known", "unknown"])
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "lazy"])
def test_a_scale_of_an_optimizers_own_never_becomes_zero(schedule: object, eager: bool) -> None:
    """What divides by it would make a layer of NaN of an adoption; momentum does begin anew."""
    model = network()
    optimizer = Scaled(model.parameters(), 100, eager=eager, schedule=schedule)
    with tunneller(model, optimizer, sync=True, first_after=2) as made:
        for _ in range(2):
            descend(model, optimizer)
            adopted = made.step(loss(model))
        assert adopted
        state = optimizer.state.get(model[2].weight, {})
        assert "momentum" not in state or not state["momentum"].any()
        assert "grad_scale" not in state or (state["grad_scale"] > 0.9).all()
        descend(model, optimizer)
        assert torch.isfinite(model[2].weight).all()


class Caching(nn.Module):
    """Makes a table of what it needs for a number of rows once, for all models of its kind."""

    tables: ClassVar[dict[int, Tensor]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, inputs: Tensor) -> Any:
        table = self.tables.setdefault(len(inputs), torch.ones(6))
        return self.body(inputs * table)


def test_what_a_model_makes_in_a_look_may_be_trained_with() -> None:
    """Also where the loop is in inference mode just then."""
    model = Caching()
    model.tables.clear()
    with tunneller(model, torch.optim.SGD(model.parameters()), data=None) as made:
        with torch.inference_mode():
            made.observe(X[:40], Y[:40])
        inputs = X[:40].clone().requires_grad_()
        functional.cross_entropy(model(inputs), Y[:40]).backward()
        assert inputs.grad is not None


@pytest.mark.parametrize("make", [torch.optim.Adagrad, torch.optim.Rprop, torch.optim.Adam])
def test_an_optimizer_steps_on_after_an_adoption_in_inference_mode(make: Callable[..., Any]) -> None:
    """Its fresh state may be written into."""
    model = network()
    optimizer = make(model.parameters(), lr=1e-4)
    with tunneller(model, optimizer, sync=True, first_after=2) as made:
        for _ in range(2):
            descend(model, optimizer)
            with torch.inference_mode():
                adopted = made.step(10.0)
        assert adopted
        descend(model, optimizer)


class Sharp(torch.optim.Optimizer):
    """Sharpness-aware minimisation as it is written most often: around another optimizer."""

    def __init__(self, params: Any, base: Any, **options: Any) -> None:
        super().__init__(params, {"rho": 0.05, **options})
        self.base_optimizer = base(self.param_groups, **options)

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return self.base_optimizer.step()


def test_an_optimizer_around_another_one_is_looked_into() -> None:
    """Its steps are counted, and momentum begins anew."""
    model = network()
    optimizer = Sharp(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
    with tunneller(model, optimizer, sync=True) as made:
        for _ in range(8):
            descend(model, optimizer)
            if made.step(1.0):
                assert not optimizer.base_optimizer.state[model[2].weight]["momentum_buffer"].any()
        assert made.state_dict()["gd_step"] == 8
    assert made.summary().adopted


# --- the same bits --------------------------------------------------------------------------------------------------


def bits(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("where", ["a closure", "an argument", "a method"])
def test_loaders_may_share_a_generator(where: str) -> None:
    """One generator for all loaders: a validation more does not change the order of the training data."""

    def run(*, tunnelled: bool) -> Tensor:
        model, generator = network(), torch.Generator().manual_seed(0)
        train = DataLoader(TensorDataset(X[:200], Y[:200]), 25, shuffle=True, generator=generator)
        valid = DataLoader(TensorDataset(X[HELD], Y[HELD]), 25, generator=generator)
        optimizer = torch.optim.Adam(model.parameters())

        def score(loader: Any = None) -> float:
            with torch.no_grad():
                return sum(float(functional.cross_entropy(model(x), y)) for x, y in loader or valid)

        class Validation:
            def __init__(self) -> None:
                self.loader = valid

            def score(self) -> float:
                return score(self.loader)

        ways = {"a closure": score, "an argument": partial(score, valid), "a method": Validation().score}
        options = {"data": None, "validate": ways[where], "patience": 1000}
        made = tunneller(model, optimizer, **options) if tunnelled else None
        for _ in range(3):
            for x, y in made.watch(train) if made else train:
                optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            validated = score()
            if made:
                made.step(validated)
        if made:
            made.close()
        return bits(model)

    assert torch.equal(run(tunnelled=False), run(tunnelled=True))


def test_generators_are_found_in_what_a_function_names() -> None:
    """Those themselves, and those of loaders; what is no function is none."""
    generator = torch.Generator()
    loader = DataLoader(TensorDataset(X), generator=generator)
    found = within_reach(lambda: (generator, loader))
    assert any(one is generator for one in found)
    assert any(one is loader for one in found)
    assert within_reach(print) == []

    class Prickly:
        def __getattr__(self, name: str) -> None:
            raise RuntimeError(name)

    with draws_kept([Prickly(), loader, None, 3]):
        torch.rand(3, generator=generator)
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=torch.Generator()))


RNG = np.random.default_rng(0)


class Drawn(TensorDataset):
    """Draws for itself."""

    def __init__(self) -> None:
        super().__init__(X)
        self.noise = RNG


class Scoring:
    """Draws in a method of a method."""

    def __init__(self, generator: Any = None, loader: Any = None) -> None:
        self.inside, self.loader = generator, loader

    def score(self) -> float:
        return self._drawn()

    @property
    def rng(self) -> Any:
        return RNG

    def _drawn(self) -> float:
        return float(self.rng.random())

    def __call__(self) -> float:
        return self.score()


@torch.no_grad()
def evaluate() -> float:
    return sum(one.random() for one in [helper() for _ in range(1)])


def helper() -> Any:
    return RNG


def scored_by_default(generator: Any = RNG) -> float:
    return float(generator.random())


REACHED: dict[str, Callable[[], Any]] = {
    "a global one": lambda: RNG.random(),  # noqa: PLW0108
    "a call deep": lambda: evaluate(),  # noqa: PLW0108
    "a default": scored_by_default,
    "a method": Scoring().score,
    "an object": Scoring(),
    "a method of an object": lambda: SCORING.score(),  # noqa: PLW0108
    "a dict": lambda: BY_DICT["one"].random(),  # noqa: PLW0108
    "a data set": lambda: LOADER.dataset.noise.random(),  # noqa: PLW0108
    "a module": lambda: sys.modules and this.RNG.random(),
}
SCORING, BY_DICT, LOADER = Scoring(), {"one": RNG}, DataLoader(Drawn())
this = sys.modules[__name__]


@pytest.mark.parametrize("name", REACHED)
def test_generators_that_a_validation_reaches_are_put_back(name: str) -> None:
    """Not torch's alone, and also where a function that it calls names them."""
    validate = REACHED[name]
    with draws_kept(within_reach(validate)):
        drawn = validate()
    assert validate() == drawn


@pytest.mark.parametrize(
    "generator", [random.Random(0), np.random.default_rng(0), np.random.RandomState(0)], ids=["random", "new", "old"]
)
def test_any_kind_of_generator_may_be_shared(generator: Any) -> None:
    """Between a loop and its validation."""
    model = network()

    def validate() -> float:
        return loss(model) + 0 * generator.random()

    with tunneller(model, torch.optim.SGD(model.parameters()), validate=validate) as made:
        state = pickle.dumps(generator)
        made.step(1.0)
        assert pickle.dumps(generator) == state


class Lazy(ModuleType):
    """Loads what it is asked for."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"loaded {name}")


LAZY, CHAIN = Lazy("lazy"), [SimpleNamespace()]
for _ in range(10_000):
    CHAIN.append(SimpleNamespace(next=CHAIN[-1]))


def test_what_is_not_ones_own_is_not_followed() -> None:
    """No library, nothing that would have to be loaded, no table, and only so far."""
    drawn = random.Random(0)
    assert within_reach(lambda: (LAZY.drawn, drawn)) == [drawn]
    assert CHAIN not in within_reach(lambda: CHAIN)
    last, system = CHAIN[-1], random.SystemRandom()
    assert within_reach(lambda: last) == [last]
    with draws_kept(within_reach(lambda: (system, X))):
        system.random()


class ByArray(nn.Module):
    """Counts its passes in the standard library's array."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.seen = network(), array("l", [0])

    def forward(self, inputs: Tensor) -> Any:
        self.seen[0] += 1
        return self.body(inputs * (1 + min(1.0, self.seen[0] / 50)))


class ByClass(nn.Module):
    """Counts its passes in its class."""

    seen = 0

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        ByClass.seen = 0

    def forward(self, inputs: Tensor) -> Any:
        ByClass.seen += 1
        return self.body(inputs * (1 + min(1.0, ByClass.seen / 50)))


class Centred:
    """A hook with a memory."""

    mean = 0.0

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * float(output.detach().mean())
        return output - self.mean


def by_hook() -> nn.Module:
    model = network()
    model[0].register_forward_hook(Centred())
    return model


@pytest.mark.parametrize("make", [ByArray, ByClass, by_hook])
def test_state_of_a_pass_is_put_back_wherever_it_is(make: Callable[[], nn.Module]) -> None:
    """Until the first adoption a run is the same bits."""

    def run(*, tunnelled: bool) -> Tensor:
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        made = tunneller(model, optimizer, patience=1000) if tunnelled else None
        for _ in range(10):
            descend(model, optimizer)
            if made:
                made.step(1.0)
        return bits(model)

    assert torch.equal(run(tunnelled=False), run(tunnelled=True))


def test_a_validation_with_a_backward_pass_adds_to_no_gradient() -> None:
    """As one under attack has; in the middle of accumulation."""
    model = network()

    def attacked() -> float:
        inputs = X[HELD].clone().requires_grad_()
        functional.cross_entropy(model(inputs), Y[HELD]).backward()
        return loss(model)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tunneller(model, optimizer, validate=attacked) as made:
        functional.cross_entropy(model(X[:100]), Y[:100]).backward()
        held = model[0].weight.grad
        assert held is not None
        before = held.clone()
        made.step(1.0)
        assert model[0].weight.grad is held
        assert torch.equal(held, before)


def test_switches_that_a_validation_leaves_turned_are_turned_back() -> None:
    """Autograd, the default type and determinism: the next backward pass works."""
    model = network()

    def careless() -> float:
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        return float(functional.cross_entropy(model(X[HELD]), Y[HELD]))

    try:
        with tunneller(model, torch.optim.SGD(model.parameters(), lr=0.1), validate=careless) as made:
            made.step(1.0)
            assert torch.is_grad_enabled()
            assert torch.get_default_dtype() == torch.float32
            assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)


# --- nothing raises in the loop -------------------------------------------------------------------------------------


def test_an_adoption_between_forward_and_backward_breaks_no_graph() -> None:
    """A loop may score each batch before its backward pass."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with tunneller(model, optimizer, sync=True) as made:
        for _ in range(6):
            optimizer.zero_grad()
            found = functional.cross_entropy(model(X[:200]), Y[:200])
            made.step(1.0)
            found.backward()
            optimizer.step()
    assert made.summary().adopted


@pytest.mark.parametrize("make", [torch.jit.script, lambda part: torch.jit.trace(part, X[:5])])
def test_a_compiled_backbone_of_jit_is_passed_over(make: Callable[[nn.Module], Any]) -> None:
    """The plain head behind it is tunnelled; a model that is scripted as a whole is refused by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = make(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU()).eval())
        whole = torch.jit.script(network())
    model = nn.Sequential(body, nn.Linear(8, 4))
    with tunneller(model, torch.optim.SGD(model.parameters(), lr=0.0), sync=True) as made:
        assert any(made.step(1.0) for _ in range(3))
    with pytest.raises(CaptureError, match=r"no nn\.Linear layer"):
        tunneller(whole, torch.optim.SGD(whole.parameters(), lr=0.0))


class Tagger(nn.Module):
    """Scores a class for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 5)

    def forward(self, words: Tensor) -> Any:
        return self.head(self.words(words))


@pytest.mark.parametrize("rows", [1, 4])
def test_a_first_batch_without_targets_that_count_is_waited_out(rows: int) -> None:
    """Masked words: where all of a batch's are left out, the next one tells what will be tunnelled."""
    model = Tagger()
    words, known = torch.randint(0, 20, (rows, 7)), torch.randint(0, 5, (rows, 7))
    options = {"data": None, "task": "classification", "validate": lambda: 1.0}
    with tunneller(model, torch.optim.SGD(model.parameters(), lr=0.1), **options) as made:
        list(made.watch([(words, torch.full((rows, 7), -100))]))
        assert made.plan == "no samples were seen yet"
        made.step(1.0)
        list(made.watch([(words, known)]))
        assert made.plan.startswith("tunnels 'head'")


def _child(made: Tunneller, said: Any) -> None:
    torch.set_num_threads(1)  # a fork has no pool of threads, whatever torch believes
    for _ in range(4):
        made.step(1.0)
    said.put(str(made.close(polish=True, timeout=2.0)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.parametrize("sync", [False, True])
def test_a_forked_process_is_not_waited_for(sync: bool) -> None:
    """It has no background thread; its steps go on, and say why nothing is tunnelled."""
    model, context = network(), multiprocessing.get_context("fork")
    with tunneller(model, torch.optim.SGD(model.parameters(), lr=0.0), FakePool(held=True)) as made:
        made._sync = False
        made.step(1.0)
        made.step(1.0)
        made._sync = sync
        said = context.Queue()
        child = context.Process(target=_child, args=(made, said))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this process has threads
            child.start()
        try:
            assert "forked" in said.get(timeout=60)
        finally:
            child.kill()
            child.join()
        made._sync = False


def test_ctrl_c_in_a_validation_leaves_no_answer_without_a_verdict() -> None:
    """A notebook goes on after it."""
    model, calls = network(), iter(range(1000))

    def validate() -> float:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return loss(model)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with tunneller(model, optimizer, validate=validate, sync=True) as made:
        for _ in range(4):
            descend(model, optimizer)
            try:
                made.step(1.0)
            except KeyboardInterrupt:
                interrupted = True
    kinds = [event.kind for event in made.history]
    assert interrupted
    assert kinds.count("answered") == kinds.count("adopted") + kinds.count("rejected")


class PreemptedError(Exception):
    """What a job scheduler's signal is turned into."""


@pytest.mark.parametrize("where", ["a pass", "split", "an answer's trial"])
def test_what_a_signals_handler_raises_reaches_the_loop(where: str) -> None:
    """It may arrive while the model is run for us; it is no fault of the model's."""
    armed = False

    def handler(*_: object) -> None:
        raise PreemptedError

    def fire() -> None:
        nonlocal armed
        if armed:
            armed = False
            signal.raise_signal(signal.SIGUSR1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, inputs: Tensor) -> Any:
            if where != "split" and not self.training:
                fire()
            return self.body(inputs)

    def split(batch: Any) -> Any:
        if where == "split":
            fire()
        return (batch[0],), {}, batch[1]

    model, pool, before = Model(), FakePool(least_squares, held=True), signal.signal(signal.SIGUSR1, handler)
    try:
        with tunneller(model, torch.optim.SGD(model.parameters(), lr=0.0), pool, data=None, split=split) as made:
            made.observe(X[:200], Y[:200])
            made.step(1.0)
            if where == "an answer's trial":
                made.step(1.0)
                pool.release.set()
                assert made._worker.idle.wait(20)
            armed = True
            with pytest.raises(PreemptedError):
                made.observe(X[:200], Y[:200]) if where == "split" else made.step(1.0)
    finally:
        signal.signal(signal.SIGUSR1, before)


# --- small ones -----------------------------------------------------------------------------------------------------


def test_a_state_is_plain_json_before_the_first_step() -> None:
    """NaN is none of JSON's."""
    model = network()
    with tunneller(model, torch.optim.SGD(model.parameters(), lr=0.1)) as made:
        state = json.loads(json.dumps(made.state_dict(), allow_nan=False))
        made.load_state_dict(state)
        made.step(1.0)


def test_a_first_score_that_is_infinite_is_improved_on() -> None:
    """A share of infinity is no least gain."""
    for delta in (0.0, 0.01):
        detector = StallDetector(3, delta, 0, "min", "rel")
        assert not any(detector.update(score) for score in (float("inf"), 9.0, 8.0, 7.0, 6.0, 5.0, 4.0))
        assert detector.best == 4.0


def test_a_watched_loader_is_as_true_as_the_loader() -> None:
    """Also one without a length, and a copy of it is one."""
    model = network()
    with tunneller(model, torch.optim.SGD(model.parameters(), lr=0.1), data=None) as made:
        endless: Iterator[Any] = ((X, Y) for _ in range(1))
        assert made.watch(endless)
        assert not made.watch([])
        assert len(copy.copy(made.watch([(X, Y)]))) == 1


# --- several ranks --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.parametrize(
    ("other", "told"),
    [(None, "not every rank made a Tunneller within"), ("differs", "the ranks' models differ"), ("same", None)],
)
def test_each_rank_has_a_tunneller_of_the_same_model(
    other: str | None, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise that is said when it is made, instead of a run that waits, or of weights in somebody else's model."""
    model, store = network(), torch.distributed.HashStore()
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(ranks, "_made", iter([0]))
    monkeypatch.setattr(ranks, "MOST_WAITED_S", 0.1)
    if other is not None:
        store.set("gdsolver/0/1", ranks._digest(model) if other == "same" else other)
    found = ranks.Ranks(0, 2)
    if told is None:
        found.agree(model)
    else:
        with pytest.raises(ValueError, match=told):
            found.agree(model)
