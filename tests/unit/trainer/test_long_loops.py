"""Odd, long and large loops: a tunneller costs them little, and takes what it is given as the plain loop would."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Tunneller
from trainer.adapters.jsonl import JsonLines
from trainer.errors import DataError
from trainer.events import Event
from trainer.journal import Journal
from trainer.model.eligibility import eligible
from trainer.model.movable import Movable
from trainer.pool.embedded import embedded_pool
from trainer.restoring import attributes
from trainer.restoring.registered import registered_kept

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
        passes = Mock(return_value=None)  # a list would be as before after each look
        handle = model.register_forward_pre_hook(lambda *_: passes())
        made.observe(X[:200], Y[:200])
        handle.remove()
        assert made.plan.startswith("tunnels")
        assert 41 < passes.call_count < 5 * 41


# --- small ones -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_floats", [False, True])
def test_labels_that_ignore_index_would_leave_out_are_told_of_it(as_floats: bool) -> None:
    """It is of classes; where one label of several is missing, the message says that and the cure."""
    labels = functional.one_hot(Y[:200], 4)
    labels[::3, 1] = -1
    made = tunneller(network(), task="multilabel", ignore_index=-1)
    with made, pytest.raises(DataError, match=r"`ignore_index` leaves out classes .* no single labels .* by `split`"):
        made.observe(X[:200], labels.float() if as_floats else labels)


class WithNothing(nn.Module):
    """Has a layer for features of which there are none today."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.extra, self.last = nn.Linear(6, 8), nn.Linear(0, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last((self.first(x) + self.extra(x[:, :0])).relu())
        return made


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize("layer", [None, "auto"])
def test_a_layer_of_width_zero_is_passed_over(layer: str | None) -> None:
    """It has no weights that could move, and the others are tunnelled."""
    model = WithNothing()
    with tunneller(model, FakePool(), layer=layer, sync=True) as made:
        made.observe(X[:200], Y[:200])
        assert made.plan.startswith("tunnels")
        for _ in range(3):
            made.step(1.0)
        assert "answered" in {event.kind for event in made.history}


def test_what_is_told_about_events_may_have_numpys_numbers(tmp_path: Path) -> None:
    """They become plain ones; what JSON does not have is refused at once, by name."""
    path = tmp_path / "events.jsonl"
    listener = JsonLines(path, about={"fold": np.int64(3), "seeds": [np.int32(1), 2], "share": torch.tensor(0.5)})
    listener(Event("stall", 1.0, 0, 0, 1))
    assert json.loads(path.read_text()).items() >= {"fold": 3, "seeds": [1, 2], "share": 0.5, "kind": "stall"}.items()
    for value in (object(), float("nan"), np.zeros(3)):
        with pytest.raises(ValueError, match=r"about is .*, which a line of JSON cannot hold"):
            JsonLines(path, about={"fold": value})


def test_shapes_in_a_message_are_of_the_same_rows() -> None:
    """The model is run on a few of them only."""
    with tunneller(network()) as made, pytest.raises(DataError, match=r"\[16, 4\] does not fit .* shape \[16, 1\]"):
        made.observe(X[:40], torch.randn(40, 1, generator=GENERATOR))


@pytest.mark.parametrize("score", [float("inf"), float("-inf"), float("nan")])
def test_a_state_is_strict_json_whatever_the_scores(score: float) -> None:
    """Infinity and NaN come back as they were."""
    made = tunneller(network(), validate=lambda: score, min_delta=0.0, sync=True, data=(X[:200], Y[:200]))
    with made:
        for _ in range(4):
            made.step(score)
        state = json.loads(json.dumps(made.state_dict(), allow_nan=False))
        assert any(event.before is not None for event in made.history)
    with tunneller(network()) as other:
        other.load_state_dict(state)
        assert list(map(str, other.history)) == list(map(str, made.history))
        assert other.state_dict() | {"age_s": 0.0} == state | {"age_s": 0.0}


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_data_may_be_numpys(parts: int) -> None:
    """As batches may: inputs, targets, weights and groups."""
    model = network()
    arrays: Any = (X.numpy(), Y.numpy(), np.ones(300, np.float32), np.zeros(300, np.int64))[:parts]
    with tunneller(model, data=arrays) as made, tunneller(model, data=tuple(map(torch.from_numpy, arrays))) as same:
        assert made.plan == same.plan
        assert made.plan.startswith("tunnels")
    several: Any = ((X.numpy(),), Y.numpy())
    with tunneller(model, data=several) as made:
        assert made.plan == same.plan


TELLING = """
import os, sys, time
open(sys.argv[1], "w").write(os.environ.get("TMPDIR", ""))
print("gdsolver-pool ready: http://127.0.0.1:1234", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("long", [True, False])
def test_a_pool_of_ones_own_has_room_for_its_sockets(
    long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's path has 107 bytes at most: below a longer TMPDIR no pool would start."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short) / ("l" * 80 if long else "s")
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        told = tmp_path / "told"

        def command(workers: int, data_dir: Path) -> Sequence[str]:
            return [sys.executable, "-c", TELLING, str(told)]

        with embedded_pool(tmp_path / "pool.log", command=command):
            socket = Path(told.read_text()) / "gdsolver-12345678" / "redis.sock"
        assert len(bytes(socket)) <= 107
        assert socket.parents[1] == (Path("/tmp") if long else folder)


def test_each_kind_of_object_in_a_model_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may keep thousands of small ones, and all of them come back as they were."""

    class Item:
        def __init__(self, number: int) -> None:
            self.number, self.notes = number, [number]

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.items = network(), [Item(number) for number in range(3000)]

    asked, ask = [], attributes.is_dataclass
    monkeypatch.setattr(attributes, "is_dataclass", lambda kind: asked.append(kind) or ask(kind))
    model = Keeping()
    with attributes.attributes_kept(model):
        for item in model.items:
            item.number += 1
            item.notes.append(0)
        del model.items[1:]
    assert [(item.number, item.notes) for item in model.items] == [(number, [number]) for number in range(3000)]
    assert len(asked) < 10
