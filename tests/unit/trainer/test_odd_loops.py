"""Loops as people have them: whatever is drawn, frozen or replaced in mid-run, jobs see that, and training goes on."""

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from tests.unit.trainer.fakes import FakePool, least_squares
from tests.unit.trainer.models import Made, classes
from tests.unit.trainer.test_hostile_pools import Liar
from tests.unit.trainer.test_tunneller import eventually
from trainer import Tunneller
from trainer.errors import CaptureError, DataError

STALLED = 1.0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def tunnelled(model: nn.Module, pool: FakePool, **options: Any) -> Tunneller:
    """A tunneller for which every second step() is a stall."""
    settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "mode": "min", "sync": True}
    settings |= {"validate": lambda: 0.0, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)} | options
    return Tunneller(model, client=pool.client(), **settings)


class Raising(tuple[Any, ...]):
    """A batch whose parts cannot be had."""

    __slots__ = ()

    def __len__(self) -> int:
        raise OSError("the file is gone")

    def __getitem__(self, part: Any) -> Any:
        raise OSError("the file is gone")


def kinds(tunneller: Tunneller) -> list[str]:
    return [event.kind for event in tunneller.history]


# --- what the loop draws ----------------------------------------------------------------------------------------------


class FromFile(Dataset[Any]):
    """Records of one open file: two readers would move each other's place."""

    def __init__(self, path: Path, inputs: Tensor) -> None:
        path.write_bytes(inputs.numpy().tobytes())
        self._file, self._count = path.open("rb"), len(inputs)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self._file.seek(24 * index)
        parts = [self._file.read(4) for _ in range(6)]
        return torch.tensor(np.frombuffer(b"".join(parts), np.float32)), index % 4


class FromSqlite(Dataset[Any]):
    """Records of a data base that refuses to be read by another thread."""

    def __init__(self, inputs: Tensor) -> None:
        self._base, self._count = sqlite3.connect(":memory:"), len(inputs)
        self._base.execute("create table records (id integer primary key, content blob)")
        self._base.executemany("insert into records values (?, ?)", enumerate(row.tobytes() for row in inputs.numpy()))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        (content,) = self._base.execute("select content from records where id = ?", (index,)).fetchone()
        return torch.tensor(np.frombuffer(content, np.float32)), index % 4

    def close(self) -> None:
        self._base.close()


class Stream(IterableDataset[Any]):
    """A stream that two workers share."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self._inputs, self._targets = inputs, targets

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, len(self._inputs), step):
            yield self._inputs[index], self._targets[index]


def halves(rows: list[Any]) -> Any:
    """A collation of one's own: every second record only, as a mapping."""
    return {"x": torch.stack([row[0] for row in rows[::2]]), "labels": torch.stack([row[1] for row in rows[::2]])}


def loaders(inputs: Tensor, targets: Tensor) -> dict[str, DataLoader[Any]]:
    whole = TensorDataset(inputs, targets)
    rare = (targets == 3).double() * 20 + 1
    return {
        "weighted": DataLoader(whole, 20, sampler=WeightedRandomSampler(rare.tolist(), 100)),
        "by batches": DataLoader(whole, batch_size=None, sampler=BatchSampler(RandomSampler(whole), 20, False)),
        "distributed": DataLoader(whole, 20, sampler=DistributedSampler(whole, num_replicas=2, rank=1)),
        "stream": DataLoader(Stream(inputs, targets), 20),
        "stream of workers": DataLoader(Stream(inputs, targets), 20, num_workers=2, multiprocessing_context="fork"),
        "collated": DataLoader(whole, 20, shuffle=True, collate_fn=halves),
    }


LOADERS = ("weighted", "by batches", "distributed", "stream", "stream of workers", "collated")


@pytest.mark.parametrize("name", LOADERS)
def test_jobs_see_what_any_loader_draws(name: str) -> None:
    """As often as it was drawn, and nothing else."""
    inputs, targets = classes(120)
    model, pool = network(), FakePool()
    tunneller, drawn = tunnelled(model, pool, layer="0"), list[bytes]()
    for batch in tunneller.watch(loaders(inputs, targets)[name]):
        rows = batch["x"] if isinstance(batch, dict) else batch[0]
        drawn += [row.tobytes() for row in rows.numpy()]
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    tunneller.close()
    assert sorted(row.tobytes() for row in pool.snapshots[0].inputs) == sorted(drawn)


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_only_the_loop_reads_the_data(kind: str, tmp_path: Path) -> None:
    """With a job always out: every record is right, and no other thread ever asks for one."""
    inputs, _ = classes(60)
    data = FromSqlite(inputs) if kind == "sqlite" else FromFile(tmp_path / "records", inputs)
    model, pool = network(), FakePool(Liar("random"))
    tunneller = tunnelled(model, pool, sync=False)
    for _ in range(6):
        for batch, wanted in tunneller.watch(DataLoader(data, 10, shuffle=True)):
            known = {row.tobytes() for row in inputs[: len(data)].numpy()}
            assert {row.tobytes() for row in batch.numpy()} <= known
            nn.functional.cross_entropy(model(batch), wanted).backward()
            tunneller.step(STALLED)
    tunneller.close()
    assert "submitted" in kinds(tunneller)
    data._file.close() if isinstance(data, FromFile) else data.close()


def test_rare_classes_keep_the_weight_that_the_loop_gives_them() -> None:
    """A snapshot takes classes in turn; its weights say how often the loop draws each."""
    inputs, _ = classes(2000)
    targets = (torch.arange(2000) % 20 == 0).long()
    model, pool = nn.Linear(6, 2), FakePool()
    tunneller = tunnelled(model, pool, data=(inputs, targets), samples=200)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    tunneller.close()
    snapshot = pool.snapshots[0]
    assert snapshot.samples == 200
    assert snapshot.sample_weight is not None
    share = snapshot.sample_weight[snapshot.targets == 1].sum() / snapshot.sample_weight.sum()
    assert share == pytest.approx(0.05, abs=0.03)


def test_empty_and_odd_batches_are_no_trouble() -> None:
    """No sample, one sample, and after the first batch even what cannot be read: training goes on."""
    inputs, targets = classes()
    model, pool = network(), FakePool(Liar("random"))
    tunneller = tunnelled(model, pool)
    for batch in [(inputs[:0], targets[:0]), (inputs[:1], targets[:1]), (inputs, targets)]:
        tunneller.observe(*batch)
    tunneller.observe("odd")
    tunneller.observe(inputs[:4].to_sparse(), targets[:4])
    for _ in range(3):
        tunneller.step(STALLED)
    assert "answered" in kinds(tunneller)
    tunneller.close()
    with pytest.raises(DataError, match="sparse"):
        tunnelled(network(), FakePool()).observe(inputs[:4].to_sparse(), targets[:4])


INPUTS, TARGETS = classes(20)
LATER: dict[str, Any] = {
    "file names": (INPUTS, TARGETS, ["a.png"] * 20),
    "metadata": (INPUTS, TARGETS, {"path": ["a"] * 20}),
    "one number": (INPUTS, TARGETS, 0.7),
    "indices": (INPUTS, TARGETS, torch.arange(20)),
    "words": (np.array(["a"] * 20), TARGETS),
    "what split does not know": {"images": INPUTS},
    "a batch that raises": Raising(),
}


@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize("split", [None, lambda batch: ((batch[0],), {}, batch[1], *batch[2:])])
def test_a_later_batch_ends_no_loop(name: str, split: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it is: it is left out with one warning, and jobs see the others."""
    pool, odd = FakePool(), LATER[name]
    tunneller = tunnelled(network(), pool, split=split)
    assert list(tunneller.watch([(INPUTS, TARGETS), odd, odd])) == [(INPUTS, TARGETS), odd, odd]
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    tunneller.close()
    assert "answered" in kinds(tunneller)
    assert caplog.text.count("a batch was left out") == (pool.snapshots[0].samples == 20)


def test_batches_without_weights_count_as_ever_beside_others() -> None:
    """Some batches bring weights, some none: a sample without one weighs 1."""
    pool, model = FakePool(), network()
    tunneller = tunnelled(model, pool, layer="0")
    tunneller.observe(INPUTS, TARGETS)
    tunneller.observe(INPUTS + 1, TARGETS, torch.full((20,), 3.0))
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    sent = pool.snapshots[0]
    assert sent.sample_weight is not None
    heavy = [row.tobytes() in {row.tobytes() for row in (INPUTS + 1).numpy()} for row in sent.inputs]
    assert sent.sample_weight.tolist() == [3.0 if one else 1.0 for one in heavy]
    assert sum(heavy) == 20


WHOLE = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("kind", ["watch", "data", "split", "array"])
def test_classes_are_what_they_are_in_any_type(name: str, kind: str) -> None:
    """-100 is no class in a type without a sign, although 156 and 2**16 - 100 have its bits there."""
    dtype, inputs = getattr(torch, name), torch.randn(200, 6, generator=torch.manual_seed(0))
    classes_there = [156, 3] if name != "int8" else [127, 3]
    targets = torch.tensor(classes_there * 100).to(dtype)
    model, pool = nn.Linear(6, 200), FakePool()
    given = {"data": (inputs, targets)} if kind == "data" else {}
    given |= {"split": lambda batch: ((batch[0],), {}, batch[1])} if kind == "split" else {}
    tunneller = tunnelled(model, pool, **given)
    if kind != "data":
        tunneller.observe(inputs.numpy(), targets.numpy()) if kind == "array" else tunneller.observe(inputs, targets)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    assert pool.snapshots[0].samples == 200
    assert set(pool.snapshots[0].targets.tolist()) == set(classes_there)


@pytest.mark.parametrize("ignored", [255, 3])
def test_small_types_may_have_a_value_that_the_loss_leaves_out(ignored: int) -> None:
    """As in maps of classes, where 255 is the border."""
    targets = torch.tensor([ignored, 0, 1, 2] * 50, dtype=torch.uint8)
    pool = FakePool()
    tunneller = tunnelled(network(), pool, data=(classes(200)[0], targets), ignore_index=ignored)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    assert set(pool.snapshots[0].targets.tolist()) == {0, 1, 2}
    assert pool.snapshots[0].samples == 150


def test_batches_without_any_weight_are_waited_out() -> None:
    """As where nothing of a batch is labelled; the first one may be such."""
    (inputs, targets), pool = classes(200), FakePool()
    tunneller = tunnelled(network(), pool)
    unlabelled = (inputs[:50], targets[:50], torch.zeros(50))
    for _ in tunneller.watch([unlabelled]):
        pass
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    assert "all weights of these samples are 0" in str(tunneller.history[-1].detail)
    for _ in tunneller.watch([unlabelled, (inputs, targets, torch.ones(200))]):
        pass
    assert tunneller.plan.startswith("tunnels '2'")
    tunneller.step(STALLED)
    assert pool.snapshots
    with pytest.raises(DataError, match="sample weights have to be finite"):
        tunnelled(network(), pool).observe(inputs, targets, -torch.ones(200))


class Named(nn.Module):
    """Names its parameters as it likes, with what torch's method took once."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, inputs: Tensor) -> Any:
        return self.net(inputs)

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, nn.Parameter]]:  # type: ignore[override]
        return self.net.named_parameters(prefix, recurse)


def test_a_model_may_name_its_parameters_itself() -> None:
    """What a tunneller reads, tries and writes goes by their places."""
    model = Named()
    before = model.net[2].weight.detach().clone()
    scores = itertools.count(100, -1)
    tunneller = tunnelled(model, FakePool(least_squares), validate=lambda: float(next(scores)), radius=0.5)
    tunneller.observe(*classes(200))
    adopted = [tunneller.step(STALLED) for _ in range(3)]
    assert any(adopted), tunneller.history
    assert not torch.equal(model.net[2].weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rows", [[0], [150], list(range(100)), [3, 199]])
@pytest.mark.parametrize("layer", ["0", "2", "auto"])
def test_a_sample_that_is_not_finite_is_left_out(
    value: float, rows: list[int], layer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs are about the others; it is said once."""
    inputs, targets = classes(200)
    inputs[rows, 1] = value
    pool = FakePool()
    tunneller = tunnelled(network(), pool, layer=layer, keep=1000)
    for _ in range(2):
        for _ in tunneller.watch([(inputs[:120], targets[:120]), (inputs[120:], targets[120:])]):
            pass
        tunneller.step(STALLED)
    tunneller.step(STALLED)
    tunneller.close()
    assert pool.snapshots[0].samples == 200 - len(rows)
    assert caplog.text.count("hold NaN or infinity; jobs do without such samples") == 1


def test_nan_is_named_where_nothing_else_is_there(caplog: pytest.LogCaptureFixture) -> None:
    """Of the data, or of the model."""
    inputs, targets = classes(200)
    tunnelled(network(), FakePool(), data=(inputs * float("nan"), targets))
    assert "the samples hold NaN or infinity" in caplog.text
    caplog.clear()
    network_of_nan = Made(lambda net, x: net.a(x).where(x[:, :1] < 2.5, torch.tensor(torch.nan)), a=nn.Linear(6, 4))
    for odd in (0, 199):  # among the few samples that are looked at first, and among the others alone
        calm = inputs.clamp(-2, 2)
        calm[odd, 0] = 3.0
        assert "puts out NaN" in tunnelled(network_of_nan, FakePool(), data=(calm, targets), keep=500).plan


def test_a_model_may_be_a_single_layer() -> None:
    """Its parameters have no prefix."""
    inputs, targets = classes()
    model, pool = nn.Linear(6, 4), FakePool(least_squares)
    scores = itertools.count(0, -1)
    tunneller = tunnelled(model, pool, data=(inputs, targets), validate=lambda: float(next(scores)))
    for _ in range(3):
        tunneller.step(STALLED)
    tunneller.close()
    assert not {"failed", "refused"} & set(kinds(tunneller))
    assert {"adopted", "rejected"} & set(kinds(tunneller))


# --- what must not move -----------------------------------------------------------------------------------------------


def test_frozen_layers_behind_a_block_stay() -> None:
    """Not even a job may move them."""
    model, specs = network(), list[Any]()
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)

    def solve(snapshot: Any, spec: Any) -> Any:
        specs.append(spec)
        return Liar("random")(snapshot, spec)

    tunneller = tunnelled(model, FakePool(solve), data=classes(), layer="0")
    for _ in range(3):
        tunneller.step(STALLED)
    tunneller.close()
    assert specs
    assert {spec.tail_radius for spec in specs} == {0.0}


def test_a_layer_frozen_in_mid_run_stays() -> None:
    """Before the next stall it is no longer chosen, and an answer that is out is not adopted."""
    model, pool = network(), FakePool(least_squares, held=True)
    scores = itertools.count(0, -1)
    tunneller = tunnelled(model, pool, data=classes(), sync=False, validate=lambda: float(next(scores)))
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    assert pool.submitted.wait(20)
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    before = model[2].weight.clone()  # type: ignore[operator, union-attr]
    pool.release.set()
    eventually(lambda: "answered" in kinds(tunneller))

    def looked_again() -> bool:
        tunneller.step(STALLED)
        return "failed" in kinds(tunneller)

    eventually(looked_again)
    tunneller.close()
    assert "adopted" not in kinds(tunneller)
    assert torch.equal(model[2].weight, before)  # type: ignore[arg-type]
    assert "frozen" in str([event.detail for event in tunneller.history if event.kind == "failed"])


def _another_head(model: nn.Sequential) -> None:
    model[2] = nn.Linear(8, 6)


def _without_a_layer(model: nn.Sequential) -> None:
    model[0], model[2] = nn.Identity(), nn.Linear(6, 4)


def _double(model: nn.Sequential) -> None:
    model.double()


def _longer(model: nn.Sequential) -> None:
    model.insert(0, nn.Linear(9, 6))


@pytest.mark.parametrize("change", [_another_head, _without_a_layer, _double, _longer])
def test_a_model_that_is_rebuilt_in_mid_run_goes_on(change: Callable[[nn.Sequential], None]) -> None:
    """The answer is for another model: rejected, with the reason; nothing is raised."""
    model, pool = network(), FakePool(Liar("random"), held=True)
    tunneller = tunnelled(model, pool, data=classes(), sync=False, layer="auto")
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    assert pool.submitted.wait(20)
    change(model)
    pool.release.set()
    eventually(lambda: "answered" in kinds(tunneller))
    for _ in range(6):
        tunneller.step(STALLED)
    tunneller.close()
    assert "adopted" not in kinds(tunneller)


def test_a_schedule_free_optimizer_is_refused() -> None:
    """The real one: it owns weights from which it would undo the change."""
    schedulefree = pytest.importorskip("schedulefree")
    model = network()
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=0.01)
    with pytest.raises(CaptureError, match="keeps weights of its own"):
        tunnelled(model, FakePool(), optimizer=optimizer)


# --- what is said at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "targets", "cure"),
    [
        (1, torch.arange(300).float() % 2, 'task="binary"'),
        (4, nn.functional.one_hot(torch.arange(300) % 4), "one-hot"),
        (4, nn.functional.one_hot(torch.arange(300) % 4).float(), "one-hot"),
        (4, torch.arange(300) % 5, "0 to 4, expected 0 to 3"),
    ],
)
def test_targets_that_may_mean_two_things_are_named_in_the_first_batch(
    outputs: int, targets: Tensor, cure: str
) -> None:
    """Not at the first stall, behind a warning."""
    model = nn.Linear(6, outputs)
    tunneller = tunnelled(model, FakePool())
    with pytest.raises(DataError, match=cure):
        tunneller.observe(classes()[0], targets)


def test_a_dict_beside_a_number_is_named_in_the_first_step() -> None:
    """`step(0.5)` with a `validate` that returns several scores, and no `monitor`."""
    tunneller = tunnelled(network(), FakePool(), data=classes(), validate=lambda: {"loss": 0.5, "acc": 0.9})
    with pytest.raises(ValueError, match="monitor is None; choose one of"):
        tunneller.step(0.5)


def test_numpy_may_raise_and_warnings_be_errors() -> None:
    """A loop's own strictness is not for what a look at the model computes."""
    model, pool = network(), FakePool(Liar("random"))
    with np.errstate(all="raise"):
        tunneller = tunnelled(model, pool, data=(1e3 * classes()[0], classes()[1]))
        for _ in range(4):
            tunneller.step(STALLED)
        tunneller.close()
    assert "answered" in kinds(tunneller)


# --- what it costs ----------------------------------------------------------------------------------------------------


class Allocations(TorchDispatchMode):
    """Counts the bytes of all that torch operators put out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            self.bytes += part.numel() * part.element_size() if isinstance(part, Tensor) else 0
        return result


def test_a_stall_allocates_as_much_whatever_the_backbone_holds() -> None:
    """From 10 thousand to 10 million parameters under the same head: nothing of the backbone is ever copied."""
    allocated, sent = list[int](), set[int]()
    for words in (1_000, 1_000_000):
        torch.manual_seed(0)
        model = Made(
            lambda net, x: net.head(net.words(x).mean(dim=1)), words=nn.Embedding(words, 10), head=nn.Linear(10, 4)
        )
        pool, counted = FakePool(), Allocations()
        tunneller = tunnelled(model, pool, data=(torch.arange(400).reshape(100, 4), torch.arange(100) % 4))
        with counted:
            for _ in range(4):
                tunneller.step(STALLED)
        tunneller.close()
        assert "answered" in kinds(tunneller)
        allocated.append(counted.bytes)
        sent.add(max(len(request.content) for request in pool.requests) // 100)
    assert max(allocated) < 1.2 * min(allocated) < 4_000_000
    assert len(sent) == 1


def test_a_large_model_gets_few_rows_at_once() -> None:
    """What modules put out for a batch stays within bounds, whatever a row takes."""
    sizes = Mock()  # a number would be as before after each look

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        sizes(output.numel() * output.element_size())

    model = nn.Sequential(nn.Linear(6, 100_000), nn.ReLU(), nn.Linear(100_000, 4))
    model[0].register_forward_hook(note)
    pool = FakePool(Liar("random"))
    tunneller = tunnelled(model, pool)
    for inputs, targets in DataLoader(TensorDataset(*classes(100)), 5):
        tunneller.observe(inputs, targets)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    tunneller.close()
    assert "answered" in kinds(tunneller)
    assert 0 < max(call.args[0] for call in sizes.call_args_list) <= 20 * 400_000


def test_a_small_model_gets_more_rows_at_once_than_the_loop_gives_it() -> None:
    """Running them costs less so; a model that is made for the loop's own batches alone gets no more than those."""
    lengths = Mock()  # a dict would be as before after each look
    for most in (1000, 5):

        def batch_sized(net: nn.Module, x: Tensor, most: int = most) -> Tensor:
            lengths(most, len(x))
            return net.head(x + torch.zeros(most, 6)[torch.arange(len(x))])

        pool = FakePool(Liar("random"))
        tunneller = tunnelled(Made(batch_sized, head=nn.Linear(6, 4)), pool)
        for inputs, targets in DataLoader(TensorDataset(*classes(100)), 5):
            tunneller.observe(inputs, targets)
        tunneller.step(STALLED)
        tunneller.step(STALLED)
        tunneller.close()
        assert "answered" in kinds(tunneller)
        assert len(pool.snapshots[0].inputs) == 100
    longest = {most: max(call.args[1] for call in lengths.call_args_list if call.args[0] == most) for most in (1000, 5)}
    assert longest == {1000: 64, 5: 64}  # the second one was tried with as many once


def test_a_known_chain_is_not_examined_again() -> None:
    """A stall runs a few rows to see that the model is called as before, a few to confirm, and the rows of the job."""
    model, passes = network(), Mock(return_value=None)  # a list would be as before after each look
    model.register_forward_hook(lambda *_: passes())
    counts = []
    for capture_s in (1e-6, 60.0):
        tunneller = tunnelled(model, FakePool(), data=classes(64), layer="auto", sync=False, capture_s=capture_s)
        examined = passes.call_count
        tunneller.step(STALLED)
        before = passes.call_count
        tunneller.step(STALLED)
        counts += [examined, passes.call_count - before]
        tunneller.close()
        passes.reset_mock()
    assert counts[1] == counts[3] == 3
    assert min(counts[0], counts[2]) > 6


def test_an_answer_costs_two_validations_and_the_summary_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that a validation moves by a second: 2.2 s at most, of which 2 are the validations'."""
    clock, real = Mock(now=0.0), time.perf_counter  # a list would be as before after each validation
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    model, pool = network(), FakePool(Liar("random"), held=True)

    def validate() -> float:
        clock.now += 1.0
        return 0.5 + 0.1 * (clock.now % 7)

    tunneller = tunnelled(model, pool, data=classes(), sync=False, validate=validate)
    tunneller.step(STALLED)
    tunneller.step(STALLED)
    assert pool.submitted.wait(20)
    pool.release.set()
    eventually(lambda: "answered" in kinds(tunneller))
    before, begun = tunneller.summary(), clock.now
    tunneller.step(STALLED)
    after = tunneller.summary()
    tunneller.close()
    assert {"adopted", "rejected"} & set(kinds(tunneller))
    assert after.validations - before.validations <= 2
    assert clock.now - begun <= 2.2
    assert after.validate_s - before.validate_s == clock.now - begun
    assert after.longest_step_ms >= 1000 * (clock.now - begun)
    assert real() > 0
