"""Odd, long and large loops: a tunneller costs them little, and takes what it is given as the plain loop would."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Tunneller
from trainer.journal import Journal
from trainer.snapshots.eligibility import eligible
from trainer.snapshots.movable import Movable
from trainer.snapshots.registered import registered_kept

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


def tunneller(model: nn.Module, pool: FakePool | None = None, **options: Any) -> Tunneller:
    settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "mode": "min", "validate": lambda: loss(model)}
    settings |= {"radius": 0.3, "client": (pool or FakePool(least_squares)).client()}
    return Tunneller(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **settings | options)


# --- watched loaders ------------------------------------------------------------------------------------------------


class Noisy(TensorDataset):
    """Draws for each sample, as augmentations do."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = super().__getitem__(index)
        return (found[0] + 0.1 * torch.randn(6), *found[1:])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_watched_loader_begins_when_the_loader_would(workers: int) -> None:
    """What the loop draws between `iter` and the first `next` is what it draws without a tunneller."""

    def drawn(made: Tunneller | None) -> list[Tensor]:
        torch.manual_seed(0)
        found = []
        for _ in range(2):
            first, second = (DataLoader(Noisy(X, Y), 100, shuffle=True, num_workers=workers) for _ in range(2))
            begun = iter(made.watch(first) if made else first)
            found.append(torch.randn(5))
            pairs = zip(begun, second, strict=True)
            found += [part for (inputs, _), (others, _) in pairs for part in (inputs, others)]
        return found

    with tunneller(network()) as made:
        assert all(map(torch.equal, drawn(None), drawn(made)))
        assert made.plan.startswith("tunnels")


def test_a_loader_that_cannot_begin_says_so_at_once() -> None:
    """As the plain loader's `iter` does."""
    with tunneller(network()) as made, pytest.raises(TypeError, match="not iterable"):
        iter(made.watch(3))  # type: ignore[arg-type]


def test_a_watched_iterator_gives_its_next_batch() -> None:
    """An endless stream is asked for a batch at a time; each is seen."""
    batches: Iterator[Any] = iter([(X[:100], Y[:100]), (X[100:200], Y[100:200])])
    with tunneller(network()) as made:
        stream: Any = made.watch(batches)
        assert torch.equal(next(stream)[0], X[:100])
        assert made.plan.startswith("tunnels")
        assert [len(inputs) for inputs, _ in stream] == [100]
        with pytest.raises(StopIteration):
            next(stream)


def test_a_watched_list_gives_batches_by_number() -> None:
    """Each is seen; what is neither an iterator nor has numbers is not made one."""
    batches = [(X[:100], Y[:100]), (X[100:200], Y[100:200])]
    with tunneller(network()) as made:
        watched: Any = made.watch(batches)
        assert watched[1] is batches[1]
        assert made.plan.startswith("tunnels")
        assert watched[:1] == batches[:1]
        loader = made.watch(DataLoader(TensorDataset(X, Y), 100))
        assert not isinstance(loader, Iterator)
        assert not hasattr(loader, "__getitem__")


# --- long runs ------------------------------------------------------------------------------------------------------


def test_a_day_of_stalls_is_summed_up_at_once() -> None:
    """Of jobs of 10 s there are some 8,600 a day; what one look at the events tells is not looked up for each stall."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    journal = Journal(optimizer)
    for stall in range(8000):
        journal.add("stall", stall)
        journal.add("submitted", stall, job=f"{stall} a")
        optimizer.step()
        journal.add("submitted", stall, job=f"{stall} b")
        optimizer.step()
        journal.add("answered", stall, job=f"{stall} b")
        optimizer.step()
        journal.add("failed" if stall % 2 else "stall", stall, job=f"{stall} a")
    begun = time.thread_time()
    summary = journal.summary(0.0, 0)
    assert time.thread_time() - begun < 2.0
    assert summary.gd_steps_during_jobs == 2 * 4000 + 3 * 4000
    journal.close()


# --- large models ---------------------------------------------------------------------------------------------------


class Many(nn.Module):
    """A small network beside a thousand small modules."""

    def __init__(self, count: int = 1000) -> None:
        super().__init__()
        self.net = network()
        self.others = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.net(x)
        return made


def test_a_stall_walks_a_model_of_many_modules_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in every pass and every trial; torch's own walks take longer than such a model's pass."""
    model, walks = Many(), []
    walk = nn.Module.named_modules

    def counted(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        walks.append(self)
        return walk(self, *args, **kwargs)

    with tunneller(model, sync=True, min_delta=10.0) as made:
        made.observe(X[:200], Y[:200])
        made.step(1.0)
        monkeypatch.setattr(nn.Module, "named_modules", counted)
        made.step(1.0)
        assert [event.kind for event in made.history] == ["stall", "submitted", "answered", "rejected"]
    monkeypatch.undo()
    assert len(walks) < 12 * len(list(model.modules()))


class Own(nn.Linear):
    """Computes something else than a linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


CHANGES: dict[str, Callable[[nn.Module, torch.optim.Optimizer], object]] = {
    "frozen": lambda model, _: model.get_parameter("2.weight").requires_grad_(False),
    "replaced": lambda model, _: setattr(model, "2", nn.Linear(8, 4)),
    "tied": lambda model, _: setattr(model.get_submodule("2"), "bias", model.get_parameter("4.bias")),
    "shared": lambda model, _: setattr(model.get_parameter("2.bias"), "data", model.get_parameter("4.bias").data),
    "shared buffer": lambda model, _: model.register_buffer("kept", model.get_parameter("2.bias").data),
    "parametrized": lambda model, _: nn.utils.parametrizations.weight_norm(model.get_submodule("2")),
    "reparametrized": lambda model, _: nn.utils.weight_norm(model.get_submodule("2")),
    "quantized": lambda model, _: setattr(model.get_parameter("2.bias"), "quant_state", 4),
    "let go": lambda model, optimizer: optimizer.param_groups[0]["params"].pop(),
    "another class": lambda model, _: setattr(model.get_submodule("2"), "__class__", Own),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_what_may_move_is_asked_again_where_it_may_have_changed(change: str) -> None:
    """And only there."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    movable = Movable(model, optimizer)
    before = movable()
    assert movable() is before
    CHANGES[change](model, optimizer)
    assert movable() == eligible(model, optimizer) != before


def test_what_is_registered_comes_back_in_its_order() -> None:
    """A validation that takes a module out and puts it in again changes the order in which the model runs."""
    model = network()
    model.register_buffer("first", torch.zeros(1), persistent=False)
    with registered_kept(model):
        moved = model[0]
        del model._modules["0"]
        model._modules["0"] = moved
        model._non_persistent_buffers_set.clear()
        model.register_buffer("second", torch.zeros(1))
    assert [name for name, _ in model.named_children()] == ["0", "1", "2"]
    assert [name for name, _ in model.named_buffers()] == ["first"]
    assert "first" not in model.state_dict()


def test_a_first_look_runs_a_deep_model_a_few_times_for_each_layer() -> None:
    """Each layer is moved near and far to see what follows it, and that once."""
    layers = [part for _ in range(40) for part in (nn.Linear(6, 6), nn.ReLU())]
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.Linear(6, 4))
    with tunneller(model, layer="auto") as made:
        passes: list[object] = []
        handle = model.register_forward_pre_hook(lambda *_: passes.append(None))
        made.observe(X[:200], Y[:200])
        handle.remove()
        assert made.plan.startswith("tunnels")
        assert len(passes) < 5 * 41
