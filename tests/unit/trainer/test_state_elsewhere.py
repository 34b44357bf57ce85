"""State that a model keeps outside of its modules' attributes, or a validation for itself, is put back as well."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import count, cycle
from queue import Queue
from secrets import randbelow
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from tests.unit.trainer import meters
from tests.unit.trainer.fakes import FakePool, least_squares
from tests.unit.trainer.meters import Extractor, Meter
from trainer import Tunneller
from trainer.errors import CaptureError
from trainer.model.live import live
from trainer.restoring import tensors
from trainer.restoring.attributes import MOST_ENTRIES, attributes_kept
from trainer.restoring.own_code import is_users
from trainer.restoring.registered import registered_kept

functional = nn.functional
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(200, 6, generator=GENERATOR)
Y = torch.arange(200) % 4


class Net(nn.Module):
    """Hands what its first layer puts out to `note`, which keeps a count; the output does not show it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        self.note()
        found: Tensor = self.head(hidden)
        return found

    def note(self) -> None:
        """Count a pass."""

    def seen(self) -> float:
        """How many passes were counted, as the loop's loss reads it."""
        raise NotImplementedError


NUMBER = 0
NOTES: list[int] = []


class ByNumber(Net):
    def note(self) -> None:
        global NUMBER  # noqa: PLW0603
        NUMBER += 1

    def seen(self) -> float:
        return NUMBER


class ByGlobalList(Net):
    def note(self) -> None:
        noted()

    def seen(self) -> float:
        return len(NOTES)


def noted() -> Any:
    """A function that is called."""
    NOTES.append(1)


class ByModule(Net):
    def note(self) -> None:
        meters.COUNT = getattr(meters, "COUNT", 0) + 1  # type: ignore[attr-defined]

    def seen(self) -> float:
        return float(meters.COUNT)  # type: ignore[attr-defined]


class ByClass(Net):
    notes: list[int] = []  # noqa: RUF012
    bank = torch.zeros(2)
    last: Any = None

    def note(self) -> None:
        self.notes.append(1)
        self.bank.add_(1)
        type(self).last = [*(type(self).last or []), 1]

    def seen(self) -> float:
        return len(self.notes) + float(self.bank.sum()) + len(type(self).last)


class ByProperty(Net):
    """By what a class has instead of methods."""

    def note(self) -> None:
        assert self.first + self.second + self.third() + self.fourth() == 4

    @property
    def first(self) -> int:
        return noted() or 1

    @cached_property
    def second(self) -> int:
        return noted() or 1

    @classmethod
    def third(cls) -> int:
        return noted() or 1

    @staticmethod
    @lru_cache
    def fourth() -> int:
        return 1

    def seen(self) -> float:
        return len(NOTES)


class Tally:
    """Keeps a count on the class alone."""

    notes: list[int] = []  # noqa: RUF012

    @staticmethod
    def add() -> None:
        Tally.notes.append(1)


class ByAnotherClass(Net):
    def note(self) -> None:
        Tally.add()

    def seen(self) -> float:
        return len(Tally.notes)


class Kept(Net):
    """Keeps something in an attribute, and one number in a small tensor behind it."""

    def __init__(self, kept: Any, note: Callable[[Any], object], seen: Callable[[Any], float]) -> None:
        super().__init__()
        self.kept, self._note, self._seen = [kept, torch.zeros(1)], note, seen

    def note(self) -> None:
        self._note(self.kept[0])
        self.kept[1].add_(1)

    def seen(self) -> float:
        return float(self._seen(self.kept[0])) + float(self.kept[1])


@dataclass(slots=True)
class Slots:
    number: int = 0


class OldSlots:
    __slots__ = ("__weakref__", "number")


class BothSlots(OldSlots):
    """Slots of a base class, and attributes."""


def raised(one: Any) -> None:
    one.number = getattr(one, "number", 0) + 1


def deep(levels: int = 12) -> dict[str, Any]:
    return {"number": 0} if levels == 0 else {"deeper": deep(levels - 1)}


def deepest(one: dict[str, Any]) -> dict[str, Any]:
    return deepest(one["deeper"]) if "deeper" in one else one


def added(one: dict[str, int]) -> None:
    one["number"] = one.get("number", 0) + 1


def pushed(values: "list[int]") -> Callable[[], None]:
    return lambda: values.append(1)


def kept_queue() -> "Queue[int]":
    return Queue()


def written(one: Any, at: int = 0) -> None:
    one[at] += 1


def grown(one: Any) -> None:
    one[str(len(one))] = 1


def appended(one: Any) -> None:
    one.append(1)


def number_of(one: Any) -> float:
    return float(getattr(one, "number", 0))


def weak() -> Any:
    return SimpleNamespace(key=Meter(), map=WeakKeyDictionary())


def weakly(one: Any) -> None:
    one.map[one.key] = one.map.get(one.key, 0) + 1


def ticking() -> Any:
    return partial(added, {"number": 0})


KEPT: dict[str, Callable[[], Kept]] = {
    "object of another file": lambda: Kept(Meter(), lambda one: one.update(1.0), lambda one: one.total),
    "dataclass with slots": lambda: Kept(Slots(), raised, number_of),
    "empty slots": lambda: Kept(OldSlots(), raised, number_of),
    "slots and attributes": lambda: Kept(BothSlots(), raised, number_of),
    "deque": lambda: Kept(deque([0], maxlen=50), appended, len),
    "counter": lambda: Kept(Counter(), added, lambda one: one["number"]),
    "queue": lambda: Kept(kept_queue(), lambda one: one.put(1), Queue.qsize),
    "weak keys": lambda: Kept(weak(), weakly, lambda one: one.map.get(one.key, 0)),
    "deep": lambda: Kept(deep(), lambda one: added(deepest(one)), lambda one: deepest(one)["number"]),
    "partial": lambda: Kept(ticking(), lambda one: one(), lambda one: one.args[0]["number"]),
    "closure": lambda: Kept(pushed([]), lambda one: one(), lambda one: len(one.__closure__[0].cell_contents)),
    "long list": lambda: Kept([0] * (MOST_ENTRIES + 1), appended, len),
    "long dict": lambda: Kept(dict.fromkeys(range(MOST_ENTRIES + 1)), grown, len),
    "long deque": lambda: Kept(deque([0] * (MOST_ENTRIES + 1)), appended, len),
    "large tensor": lambda: Kept(torch.zeros(1_200_000), written, lambda one: one[0]),
    "large array": lambda: Kept(np.zeros(1_200_000), written, lambda one: one[0]),
    "behind a large tensor": lambda: Kept(
        [torch.zeros(1_000_000), [0]], lambda one: written(one[1]), lambda one: one[1][0]
    ),
}


class Bank(Net):
    """MoCo's queue: a large buffer that each pass writes into, and where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.zeros(999_999))
        self.register_buffer("queue", torch.zeros(128, 16_384))
        self.register_buffer("at", torch.zeros(1, dtype=torch.long))

    def note(self) -> None:
        self.get_buffer("queue")[:, int(self.get_buffer("at"))] = 1.0
        self.get_buffer("at").add_(1)

    def seen(self) -> float:
        return float(self.get_buffer("queue")[:, :200].sum()) + float(self.get_buffer("at"))


class Hooked(Net):
    """A hook keeps what passes by, and the loop takes it out again."""

    def __init__(self, hook: Callable[..., Any], notes: list[Any], before: bool = False) -> None:
        super().__init__()
        register = self.body.register_forward_pre_hook if before else self.body.register_forward_hook
        register(hook)
        self._size = lambda: len(notes)

    def seen(self) -> float:
        return self._size()


def by_lambda() -> Hooked:
    notes: list[Any] = []
    return Hooked(lambda *_: notes.append(1), notes)


def by_method() -> Hooked:
    found = Extractor()
    return Hooked(found.hook, found.features)


def by_nonlocal() -> Net:
    number = 0

    def hook(*_: Any) -> None:
        nonlocal number
        number += 1

    made = Hooked(hook, [])
    made._size = lambda: number
    return made


def by_partial() -> Hooked:
    notes: list[Any] = []

    def keep(kept: list[Any], *_: Any) -> None:
        kept.append(1)

    return Hooked(partial(keep, notes), notes, before=True)


def by_forward() -> Net:
    made, notes = Hooked(lambda *_: None, []), []
    plain = made.forward

    @torch.no_grad()
    def noting() -> None:
        notes.append(1)

    def forward(x: Tensor) -> Tensor:
        noting()
        return plain(x)

    made.forward = forward  # type: ignore[method-assign]
    made._size = lambda: len(notes)
    return made


def by_function() -> Net:
    def hook(*_: Any) -> None:
        hook.number += 1  # type: ignore[attr-defined]

    hook.number = 0  # type: ignore[attr-defined]
    made = Hooked(hook, [])
    made._size = lambda: hook.number  # type: ignore[attr-defined]
    return made


def by_default() -> Net:
    notes: list[Any] = []

    def hook(*_: Any, kept: list[Any] = notes) -> None:
        kept.append(1)

    return Hooked(hook, notes)


HOLDERS: dict[str, Callable[[], Net]] = {
    **KEPT,
    "global number": ByNumber,
    "global list": ByGlobalList,
    "variable of another file": ByModule,
    "class": ByClass,
    "another class": ByAnotherClass,
    "property": ByProperty,
    "large buffer": Bank,
    "lambda hook": by_lambda,
    "bound hook": by_method,
    "variable of an outer function": by_nonlocal,
    "partial hook": by_partial,
    "forward of its own": by_forward,
    "default of a hook": by_default,
    "attribute of a function": by_function,
}


def forget() -> None:
    """All that outlives a model."""
    global NUMBER  # noqa: PLW0603
    NUMBER = 0
    meters.COUNT = 0  # type: ignore[attr-defined]
    for notes in (NOTES, ByClass.notes, Tally.notes):
        notes.clear()
    ByClass.bank.zero_()
    ByClass.last = None


def tunneller(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, **options: Any) -> Tunneller:
    """One for which every step but the first is a stall, and no answer helps."""
    settings: dict[str, Any] = {"client": FakePool(least_squares).client(), "validate": lambda: 0.0, "mode": "min"}
    settings |= {"patience": 1, "cooldown": 0, "sync": True, "radius": 0.3}
    return Tunneller(model, optimizer=optimizer or torch.optim.SGD(model.parameters(), lr=0.1), **settings | options)


@pytest.mark.parametrize("name", HOLDERS)
def test_state_comes_back_wherever_it_is_kept(name: str) -> None:
    """A loss that counts passes is the same with a tunneller, which runs the model many times between them."""

    def run(tunnelled: bool) -> tuple[list[float], list[Tensor]]:
        forget()
        torch.manual_seed(0)
        model, losses = HOLDERS[name](), list[float]()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        made = tunneller(model, optimizer, validate=lambda: 0.0 * model(X).sum().item()) if tunnelled else None
        for epoch in range(4):
            for part in (slice(0, 100), slice(100, 200)):
                if made:
                    made.observe(X[part], Y[part])
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(X[part]), Y[part])
                (loss + 0.001 * model.seen() * model.head.weight.square().sum()).backward()
                optimizer.step()
                losses += [loss.item(), model.seen()]
            if made:
                made.step(1.0 + epoch)
        if made:
            assert {"rejected"} <= {event.kind for event in made.history}
            assert made.close().adopted == 0
        return losses, [value.detach().clone() for value in model.parameters()]

    plain, other = run(False), run(True)
    assert plain[0] == other[0]
    assert all(map(torch.equal, plain[1], other[1]))


def test_a_hook_on_all_modules_may_keep_notes() -> None:
    """One that torch calls for every module there is."""
    notes: list[int] = []
    handle = register_module_forward_hook(lambda *_: notes.append(1))
    try:
        with tunneller(Net()) as made:
            made.observe(X, Y)
            made.step(1.0)
            made.step(1.0)
    finally:
        handle.remove()
    assert notes == []


# --- what cannot be put back ----------------------------------------------------------------------------------------


def endless() -> Iterator[int]:
    yield from count()


class Drawing(Net):
    """Takes a number from an iterator in each pass."""

    def __init__(self, numbers: Any, kept: Any = None) -> None:
        super().__init__()
        self.numbers, self.unused = numbers, kept

    def note(self) -> None:
        next(self.numbers)


@pytest.mark.parametrize("make", [count, endless, lambda: iter(range(10**6)), lambda: cycle([1])])
def test_a_model_that_draws_from_an_iterator_is_refused_before_it_is_run(make: Callable[[], Iterator[int]]) -> None:
    """Nothing puts an iterator back; the plan says so."""
    numbers, passes = make(), Extractor()
    model = Drawing(numbers)
    model.body.register_forward_hook(passes.hook)
    with tunneller(model) as made:
        made.observe(X, Y)
        assert "draws from an iterator, 'numbers'" in made.plan
        made.step(1.0)
        made.step(1.0)
        assert {event.kind for event in made.history} == {"failed"}
    assert next(numbers) == next(make())


def test_an_iterator_that_no_code_draws_from_is_no_trouble() -> None:
    """A loop may keep its own where it likes."""
    model = Net()
    model.numbers = count()
    with tunneller(model) as made:
        made.observe(X, Y)
        assert made.plan.startswith("tunnels")


def test_a_large_buffer_without_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not copied: nothing is tunnelled, and the plan says why."""
    monkeypatch.setattr(tensors, "MOST_OF_LARGE", 1_000_000)
    with tunneller(Bank()) as made:
        made.observe(X, Y)
        assert "writes into its large buffer queue" in made.plan


# --- what it costs --------------------------------------------------------------------------------------------------


def test_tables_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has written into since the last look is left alone; what a loop writes into is not."""
    model, copied = Net(), list[int]()
    model.register_buffer("table", torch.zeros(1_200_000))
    copy = tensors._copy
    monkeypatch.setattr(tensors, "_copy", lambda value: copied.append(len(value)) or copy(value))

    def look() -> list[int]:
        copied.clear()
        with registered_kept(model):
            pass
        return list(copied)

    assert (look(), look()) == ([1_200_000], [])
    model.get_buffer("table")[0] = 1.0
    assert (look(), look()) == ([1_200_000], [1_200_000])


def test_a_model_of_many_blocks_of_ones_own_is_looked_at_quickly() -> None:
    """The code of a class is read once, however many modules are of it."""
    model = nn.Sequential(*(Kept(Meter(), raised, number_of) for _ in range(300)))
    with attributes_kept(model):
        pass
    begun = time.thread_time()
    for _ in range(5):
        with attributes_kept(model):
            pass
    assert (time.thread_time() - begun) / 5 < 0.1


def test_libraries_and_this_one_are_not_gone_into() -> None:
    """Nothing of a tunneller's own is put back, whoever holds it."""
    assert not any(map(is_users, ("torch.nn", "numpy", "trainer.tunneller", "shared.snapshot", "queue", None)))
    model = Net()
    made = tunneller(model)
    model.holder = SimpleNamespace(made=made)
    made._validator._validate = lambda: float(made._journal.step) * 0.0
    for _ in range(3):
        made.observe(X, Y)
        made.step(1.0)
    assert made._validator.calls >= 1
    assert made._journal.step == 3
    made.close()


# --- validations ----------------------------------------------------------------------------------------------------


class Judge:
    """Keeps a history, halves the learning rate where the score stands still, and counts around itself."""

    calls = 0

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer, self.history, self.meter = model, optimizer, list[float](), Meter()

    def __call__(self) -> float:
        with torch.no_grad():
            score = functional.cross_entropy(self.model(X), Y).item()
        self.history.append(score)
        self.meter.update(score)
        Judge.calls += 1
        if len(self.history) % 3 == 0:
            for group in self.optimizer.param_groups:
                group["lr"] *= 0.5
        return score


def test_what_a_validation_keeps_counts_the_loops_own_calls() -> None:
    """Calls beside them leave no trace: no more entries, and no smaller learning rate."""

    def run(tunnelled: bool) -> tuple[Any, ...]:
        torch.manual_seed(0)
        Judge.calls = 0
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        judge = Judge(model, optimizer)
        made = tunneller(model, optimizer, validate=judge, min_delta=1e9) if tunnelled else None
        for _ in range(8):
            if made:
                made.observe(X, Y)
            optimizer.zero_grad()
            functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            score = judge()
            if made:
                made.step(score)
        if made:
            assert made.close().adopted == 0
        return judge.history, judge.meter.count, Judge.calls, optimizer.param_groups[0]["lr"]

    assert run(False) == run(True)


def test_a_validation_that_draws_from_an_iterator_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Once: a call beside the loop's own takes what the loop would have scored."""
    batches = cycle([(X[:20], Y[:20]), (X[20:40], Y[20:40])])
    model = Net()

    def validate() -> float:
        inputs, targets = next(batches)
        return functional.cross_entropy(model(inputs), targets).item()

    with tunneller(model, validate=validate) as made:
        for _ in range(3):
            made.observe(X, Y)
            made.step(1.0)
    assert caplog.text.count("score the same data each time") == 1
    assert "'batches'" in caplog.text


def test_a_validation_of_other_data_each_time_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """It is asked twice where the loop's score is another one; of what it draws the second call draws other numbers."""
    model = Net()
    for draw in (lambda: torch.rand(1).item(), lambda: float(randbelow(10**9))):

        def validate(draw: Callable[[], float] = draw) -> float:
            return functional.cross_entropy(model(X), Y).item() + draw()

        with tunneller(model, validate=validate) as made:
            made.step(1.0)
            made.step(1.0)
            assert made.summary().validations == 2
    assert caplog.text.count("score the same data each time") == 1
    assert caplog.text.count("leaves its score to chance") == 1


def test_a_score_that_the_loop_hands_on_is_asked_for_once() -> None:
    """No second call where `step` is given what `validate` gives."""
    with tunneller(Net(), validate=lambda: 0.25) as made:
        made.step(0.25)
        assert made.summary().validations == 1


def test_live_says_what_it_cannot_put_back() -> None:
    """As an error of capture, and nothing else."""
    with pytest.raises(CaptureError, match="count in an attribute"), live(Drawing(count())):
        pass
