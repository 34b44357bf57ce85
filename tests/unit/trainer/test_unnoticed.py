"""Looks, trials and validations leave no trace: whatever a model keeps, registers or writes into, it is as before."""

import copy
import gc
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, Tensors, least_squares, unchanged
from trainer import Tunneller
from trainer.adoption.validation import direction
from trainer.restoring.attributes import MOST_ENTRIES, attributes_kept

functional = nn.functional
torch.manual_seed(0)
X, Y = torch.randn(200, 6), torch.randint(0, 4, (200,))
WORDS = torch.randint(1, 50, (200, 3))
PADDED = torch.randint(1, 50, (200, 5))
PADDED[::2, 4:] = 0


class ReadOnly(list[int]):
    """A list that only its maker may change."""

    def clear(self) -> None:
        raise TypeError("read-only")

    append = extend = clear  # type: ignore[assignment]


class Record(OrderedDict[str, Any]):
    """What Transformers returns: entries may be set, and `update` is forbidden."""

    def update(self, *_: Any, **__: Any) -> None:  # type: ignore[override]
        raise TypeError("you cannot use update on a record")


class Closed(dict[str, int]):
    """A mapping that cannot be copied, and not be written."""

    def copy(self) -> dict[str, int]:
        raise TypeError("closed")

    __setitem__ = clear = update = copy  # type: ignore[assignment]


KEPT: dict[str, Callable[[], Any]] = {
    "record": lambda: Record(loss=1, scores=2),
    "read-only list": lambda: ReadOnly([1, 2]),
    "closed mapping": lambda: Closed(a=1),
    "counter": lambda: Counter("aab"),
    "default": lambda: defaultdict(list, {"a": [1]}),
    "deque": lambda: deque([1, 2], maxlen=2),
    "set": lambda: {1, 2},
}


class Keeping(nn.Module):
    """Keeps something in an attribute, and writes what it has seen into it as far as it can."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.head, self.kept, self.fresh = nn.Linear(6, 4), kept, Counter[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.fresh[len(x)] += 1
        if isinstance(self.kept, Record):
            self.kept = Record(loss=len(x))
        elif isinstance(self.kept, deque | ReadOnly):
            list.append(self.kept, 1) if isinstance(self.kept, list) else self.kept.append(3)
        elif isinstance(self.kept, set):
            self.kept.add(len(x))
        elif not isinstance(self.kept, Closed):
            self.kept["seen"] = len(x)
        return self.head(x)


def tunneller(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, **options: Any) -> Tunneller:
    """One for which every step but the first is a stall."""
    settings: dict[str, Any] = {"client": FakePool().client(), "validate": lambda: 0.0, "mode": "min", "patience": 1}
    settings |= {"cooldown": 0, "sync": True, "optimizer": optimizer or torch.optim.SGD(model.parameters(), lr=0.1)}
    return Tunneller(model, **(settings | options))


@pytest.mark.parametrize("name", KEPT)
def test_what_a_module_keeps_is_as_before(name: str) -> None:
    """Also in containers that forbid some of their own methods; one that cannot be looked into disturbs nothing."""
    model = Keeping(KEPT[name]())
    before, fresh = list(model.kept), copy.copy(model.fresh)
    with tunneller(model) as found:
        found.observe(X, Y)
        found.step(1.0)
        found.step(1.0)
    assert type(model.kept) is type(KEPT[name]())
    assert list(model.kept) == before
    assert model.fresh == fresh


@dataclass
class Noted:
    """State in an object of the model's own."""

    mean: Tensor
    deeper: dict[str, Any]


class Stateful(nn.Module):
    """Carries a running mean from batch to batch, in one of many places, and takes it off in training."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.head, self.where = nn.Linear(6, 4), where
        self.noted = Noted(torch.zeros(6), {"a": {"mean": [torch.zeros(6)]}})
        self.outside = [nn.BatchNorm1d(6)]
        self.unregistered = {"mean": nn.Parameter(torch.zeros(6), requires_grad=False)}
        self.old = SimpleNamespace(mean=torch.zeros(6))
        self.register_buffer("adjacency", torch.eye(6).to_sparse())
        self.order = OrderedDict(a=1, b=2)
        self.order.move_to_end("a")

    def forward(self, x: Tensor) -> Tensor:
        now = x.detach().mean(0)
        self.order[str(len(self.order))] = 1
        match self.where:
            case "object":
                self.noted.mean = 0.9 * self.noted.mean + 0.1 * now
                shift = self.noted.mean
            case "deep":
                shift = self.noted.deeper["a"]["mean"][0].mul_(0.9).add_(0.1 * now)
            case "module":
                self.outside[0].train(self.training)
                return self.head(self.outside[0](x))
            case "parameter":
                with torch.no_grad():
                    shift = self.unregistered["mean"].mul_(0.9).add_(0.1 * now)
            case _:
                self.old.mean = 0.9 * self.old.mean + 0.1 * now
                shift = self.old.mean
        return self.head(x - shift if self.training else x)


@pytest.mark.parametrize("where", ["object", "deep", "module", "parameter", "namespace"])
def test_state_is_put_back_wherever_a_model_keeps_it(where: str) -> None:
    """With jobs out all the time and validations beside the loop's own, a run ends with the same bits as without."""

    def run(tunnelled: bool) -> Stateful:
        torch.manual_seed(1)
        model = Stateful(where)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

        def validate() -> float:
            return functional.cross_entropy(model(X), Y).item()

        options = {"client": FakePool(held=True).client(), "validate": validate, "sync": False}
        found = tunneller(model, optimizer, **options) if tunnelled else None
        for _ in range(4):
            if found:
                found.observe(X, Y)
            optimizer.zero_grad()
            functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            score = validate()
            if found:
                found.step(score)
        if found:
            found.close()
        return model

    plain, other = run(False), run(True)
    assert torch.equal(plain.head.weight, other.head.weight)
    assert list(plain.order) == list(other.order)


def test_large_tables_are_not_gone_through() -> None:
    """A vocabulary is no state, and each pass would take as long as it has words."""
    model, entries = nn.Linear(2, 2), count()
    model.words = [Counting(entries) for _ in range(MOST_ENTRIES + 1)]
    with attributes_kept(model):
        pass
    assert next(entries) == 0


class Counting:
    """Counts how often somebody asks what it holds."""

    def __init__(self, entries: Iterator[int]) -> None:
        object.__setattr__(self, "entries", entries)

    def __getattribute__(self, name: str) -> Any:
        next(object.__getattribute__(self, "entries"))
        return object.__getattribute__(self, name)


class Centred(nn.Module):
    """Registers what it needs on its first pass: a buffer that was None, a new one, a parameter, a module."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.head, self.how = nn.Linear(6, 4), how
        self.register_buffer("center", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "None" and self.center is None:
            self.center = x.mean(0)
        if self.how == "buffer" and not hasattr(self, "late"):
            self.register_buffer("late", x.mean(0), persistent=False)
        if self.how == "parameter" and not hasattr(self, "late"):
            self.late = nn.Parameter(x.mean(0).detach())
        if self.how == "module" and not hasattr(self, "late"):
            self.late = nn.Linear(6, 6)
        return self.head(x)


@pytest.mark.parametrize("how", ["None", "buffer", "parameter", "module"])
def test_what_a_pass_registers_is_taken_out_again(how: str) -> None:
    """The first batch of the loop itself decides what is registered, not the tunneller's few rows."""
    model = Centred(how)
    before = list(model.state_dict())
    with tunneller(model) as found:
        found.observe(X, Y)
        assert list(model.state_dict()) == before
        assert not hasattr(model, "late")
    model(X)
    assert how != "buffer" or model._non_persistent_buffers_set == {"late"}


class Scaling(nn.Module):
    """An embedding that scales its rows down in a pass, or a layer that cleans its own weights up."""

    def __init__(self, how: str) -> None:
        super().__init__()
        kind = nn.EmbeddingBag if how == "bag" else nn.Embedding
        self.words: nn.Module = kind(50, 6, max_norm=1.0 if how in ("bag", "words") else None)
        self.head, self.how = nn.Linear(6, 4), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "own":
            with torch.no_grad():
                self.head.weight.clamp_(-0.3, 0.3)
        if self.how == "functional":
            return self.head(functional.embedding(x, self.words.weight, max_norm=1.0).mean(1))  # type: ignore[arg-type]
        found = self.words(x)
        return self.head(found if found.dim() == 2 else found.mean(1))


@pytest.mark.parametrize("how", ["words", "bag", "functional", "own"])
def test_parameters_that_a_pass_writes_into_are_as_before(how: str) -> None:
    """A run without an adoption ends with the same bits as one without a tunneller."""

    def run(tunnelled: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = Scaling(how)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        found = tunneller(model, optimizer) if tunnelled else None
        for epoch in range(4):
            part = slice(40 * epoch, 40 * epoch + 40)
            if found:
                found.observe(WORDS[part], Y[part])
            optimizer.zero_grad()
            functional.cross_entropy(model(WORDS[part]), Y[part]).backward()
            optimizer.step()
            if found:
                found.step(1.0)
        if found:
            assert found.close().adopted == 0
        return model.state_dict()

    plain, other = run(False), run(True)
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_large_parameters_that_a_pass_writes_into_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not copied: nothing is tunnelled, and the plan says why."""
    monkeypatch.setattr("trainer.restoring.tensors.MOST_ELEMENTS", 10)
    with tunneller(Scaling("own")) as found:
        found.observe(WORDS, Y)
        assert "writes into its own parameter head.weight" in (found.plan or "")


class Noting(nn.Module):
    """BatchNorm, a generator of its own, and notes in a list, a buffer and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        self.notes, self.seen = list[float](), 0
        self.own = torch.Generator().manual_seed(3)
        self.register_buffer("best", torch.tensor(float("inf")))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x + 0.1 * torch.randn(x.shape, generator=self.own) if self.training else x)

    def score(self) -> float:
        """A validation in training mode that writes things down."""
        found = functional.cross_entropy(self(X), Y).item()
        self.notes.append(found)
        self.seen += 1
        self.best = torch.minimum(self.best, torch.tensor(found))
        return found


@pytest.mark.parametrize("answer", [unchanged, least_squares])
def test_validations_beside_the_loops_own_leave_no_trace(answer: Callable[..., Any]) -> None:
    """Rejected candidates, too: statistics, buffers, notes and random states are those of the loop's own calls."""

    def run(tunnelled: bool) -> Noting:
        torch.manual_seed(0)
        model = Noting()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        rising = count()

        def validate() -> float:
            model.score()
            return float(next(rising))

        options = {"data": (X, Y), "validate": validate, "client": FakePool(answer).client(), "radius": 0.3}
        found = tunneller(model, optimizer, **options) if tunnelled else None
        for _ in range(4):
            optimizer.zero_grad()
            functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            model.score()
            if found:
                found.step(1.0)
        if found:
            assert found.close().adopted == 0
        return model

    plain, other = run(False), run(True)
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in other.state_dict().items())
    assert (plain.notes, plain.seen) == (other.notes, other.seen)
    assert torch.equal(plain.own.get_state(), other.own.get_state())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def test_a_graph_that_waits_for_its_backward_pass_outlives_a_rejection() -> None:
    """`step` between a forward and its backward pass: what was tried is out again, and autograd never saw it."""
    model, rising = network(), count()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"data": (X, Y), "client": FakePool(least_squares).client(), "radius": 0.3}
    with tunneller(model, optimizer, validate=lambda: float(next(rising)), **options) as found:
        for _ in range(4):
            loss = functional.cross_entropy(model(X), Y)
            found.step(1.0)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert {"rejected"} < {event.kind for event in found.history}


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
        lambda p: torch.optim.Adagrad(p, fused=True),
        lambda p: torch.optim.AdamW(p, fused=True, amsgrad=True),
    ],
)
def test_optimizers_go_on_after_an_adoption(optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
    """Fused kernels want the state of all parameters of a group, or of none."""
    model, falling = network(), count(1000, -1)
    made = optimizer(model.parameters())
    options = {"data": (X, Y), "client": FakePool(least_squares).client(), "radius": 0.3}
    with tunneller(model, made, validate=lambda: float(next(falling)), **options) as found:
        for _ in range(5):
            made.zero_grad()
            functional.cross_entropy(model(X), Y).backward()
            made.step()
            found.step(1.0)
        assert found.summary().adopted > 0
        made.step()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, "min") for name in ("val_loss", "test/mse", "eval-perplexity", "brier_score", "hinge_score")),
        *((name, "max") for name in ("val_accuracy", "f1", "acc@1", "recall_1", "score", "val/map", "r2_score")),
        *((name, None) for name in ("neg_log_loss", "neg_mean_squared_error", "val_neg_loss", "one_minus_acc")),
        *((name, None) for name in ("1-accuracy", "false_recall", "loss_accuracy", "speed", None)),
    ],
)
def test_a_direction_is_never_guessed(name: str | None, expected: str | None) -> None:
    """A name that may mean the opposite of its parts says nothing, and `mode` is asked for."""
    assert direction(name) == expected


class Padded(nn.Module):
    """Defines its head first, and calls it last; in evaluation mode its encoder would use nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.words(x), src_key_padding_mask=x == 0).mean(1))


@pytest.mark.parametrize("layer", [None, "auto"])
def test_layers_count_in_the_order_in_which_they_are_called(layer: str | None) -> None:
    """Not in that of their definitions: the head of this one is tunnelled."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with tunneller(Padded(), data=(PADDED, Y), layer=layer) as found:
        assert "tunnels 'head'" in (found.plan or "")
    assert torch.backends.mha.get_fastpath_enabled() is fast


def test_a_layer_that_is_called_last_and_leads_nowhere_is_passed_over() -> None:
    """Then the layer that is defined last has its turn."""

    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aside, self.head = nn.Linear(6, 3), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.head(x)
            self.aside(x)
            return scores

    with tunneller(Aside(), data=(X, Y)) as found:
        assert "tunnels 'head'" in (found.plan or "")


def test_no_answer_is_left_without_a_verdict_where_validate_raises() -> None:
    """The error is the loop's to deal with; the pool is told all the same."""
    model, calls = network(), count()

    def validate() -> float:
        if next(calls) > 2:
            raise KeyError("no such metric")
        return 1.0

    options = {"data": (X, Y), "client": FakePool(least_squares).client(), "radius": 0.3}
    found = tunneller(model, validate=validate, **options)

    def loop() -> None:
        for _ in range(6):
            found.step(1.0)

    with pytest.raises(KeyError):
        loop()
    answered = [event.kind for event in found.history if event.kind in ("answered", "rejected", "adopted", "refused")]
    found.close()
    assert answered.count("answered") == len(answered) - answered.count("answered") > 0


def test_a_tunneller_that_nobody_closes_ends_with_whoever_held_it() -> None:
    """Neither its thread nor its hook on the optimizer stays."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    threads = set(threading.enumerate())
    found = tunneller(model, optimizer, data=(X, Y))
    (thread,) = set(threading.enumerate()) - threads
    del found
    gc.collect()
    thread.join(timeout=10.0)
    assert not thread.is_alive()
    assert not optimizer._optimizer_step_post_hooks  # type: ignore[attr-defined]


class TwoHeads(nn.Module):
    """An auxiliary head is called after the main one, on features that are cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.middle = nn.Linear(6, 8), nn.Linear(8, 8)
        self.main, self.aside = nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.middle(self.body(x).relu()).relu()
        scores = self.main(features)
        return {"logits": scores, "aside": self.aside(features.detach())}


@pytest.mark.parametrize("layer", [None, "auto"])
def test_a_head_aside_that_is_called_last_is_not_the_final_layer(layer: str | None) -> None:
    """The main one is what is tunnelled by default, and what follows a hidden layer's success."""
    falling = count(1000, -1)

    def near(snapshot: Snapshot, _: JobSpec) -> Tensors:
        return unchanged(snapshot, _) | {"weight": snapshot.weight * np.float32(1.01)}

    options = {"data": (X, Y), "client": FakePool(near).client(), "radius": 0.1, "layer": layer}
    with tunneller(TwoHeads(), validate=lambda: float(next(falling)), **options) as found:
        for _ in range(6):
            found.step(1.0)
        assert found._layers[-1] == "main"
        kinds = [event.kind for event in found.history]
    assert "failed" not in kinds
    assert "submitted" in kinds


def test_a_mode_the_wrong_way_round_is_asked_about(caplog: pytest.LogCaptureFixture) -> None:
    """An accuracy that rises while `mode` is "min": one warning at the first stall."""
    scores = iter([0.1, 0.5, 0.7, 0.9, 0.9, 0.9])
    with tunneller(network(), data=(X, Y), patience=3, validate=lambda: 0.1) as found:
        for score in scores:
            found.step(score)
    assert "is mode='max' meant?" in caplog.text


def test_a_last_tunnel_has_all_its_samples() -> None:
    """Nothing waits for its pass: it is not cut short as those in the loop are."""
    pool = FakePool()
    with tunneller(network(), data=(X, Y), client=pool.client(), sync=False) as found:
        budgets = list[float]()
        inspect = found._inspector.inspect

        def noted(*arguments: Any, budget_s: float, last: bool) -> Any:
            budgets.append(budget_s)
            return inspect(*arguments, budget_s=budget_s, last=last)

        object.__setattr__(found._inspector, "inspect", noted)
        found.close(polish=True, timeout=20.0)
    assert min(budgets) > 0.5


def test_what_is_not_known_yet_is_said_under_the_table() -> None:
    """Before the first batch `explain()` has question marks, and a line on them."""
    with tunneller(network()) as found:
        assert str(found.explain()).endswith("?: not known before the first batch")
        found.observe(X, Y)
        assert "?" not in str(found.explain())
