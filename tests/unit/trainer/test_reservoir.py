"""What is kept of the batches that a loop draws: a fair sample, in bounds, as it was, and nothing else noticed."""

from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

from trainer.errors import DataError, TrainerError
from trainer.samples.reservoir import Batch, Reservoir, Rows
from trainer.samples.rows import Cluster

CPU = torch.device("cpu")


def numbered(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Samples that can be told apart: the input is the number."""
    numbers = torch.arange(start, start + count)
    return numbers.float()[:, None], numbers


def numbers_of(rows: Rows) -> list[int]:
    """Which of the numbered samples these are."""
    return sorted(int(target) for _, batch in rows.batches(100, CPU) for target in batch.targets)


def drawn(reservoir: Reservoir, most: int = 10_000) -> list[int]:
    return numbers_of(reservoir.rows(most, np.random.default_rng(0)))


def test_every_sample_has_the_same_chance() -> None:
    """Over 400 seeds each of 200 samples is kept about equally often, wherever in the epoch it came."""
    counts = np.zeros(200)
    for seed in range(400):
        reservoir = Reservoir(keep=40, seed=seed)
        for start in range(0, 200, 4):
            reservoir.observe(numbered(4, start))
        assert 0 < reservoir.size <= 40
        counts[drawn(reservoir)] += 1
    mean = counts.mean()
    assert abs(counts[:40].mean() - mean) < 0.15 * mean
    assert abs(counts[-40:].mean() - mean) < 0.15 * mean


def test_later_epochs_are_sampled_as_fairly() -> None:
    """Longer and shorter epochs are fair, too."""
    for length in (60, 100, 140):
        counts = np.zeros(length)
        for seed in range(300):
            reservoir = Reservoir(keep=40, seed=seed)
            for epoch in (100, length, length):
                reservoir.begin()
                for start in range(0, epoch, 2):
                    reservoir.observe(numbered(2, start))
            reservoir.begin()
            counts[drawn(reservoir)] += 1
        assert abs(counts[: length // 3].mean() - counts[-(length // 3) :].mean()) < 0.15 * counts.mean()


def test_it_keeps_to_its_limits() -> None:
    """At most `keep` samples and `keep_mb` MiB; where rows grow, some are dropped."""
    reservoir = Reservoir(keep=50, keep_mb=0.01)
    for size in (10, 100, 1000):
        reservoir.observe((torch.zeros(64, size), torch.arange(64)))
    kept = reservoir.rows(1000, np.random.default_rng(0))
    total = sum(tensor.nbytes for _, batch in kept.batches(10, CPU) for tensor in (batch.args[0], batch.targets))
    assert 0 < total <= 0.01 * 2**20
    assert reservoir.seen == 192


def test_a_sample_that_has_no_room_names_keep_mb() -> None:
    """In the first batch, or of data in memory."""
    batch = (torch.zeros(4, 1000), torch.arange(4))
    with pytest.raises(DataError, match=r"one sample takes .* MiB, .* a larger keep_mb"):
        Reservoir(keep_mb=0.003).observe(batch)
    with pytest.raises(DataError, match=r"one sample takes .* MiB, .* a larger keep_mb"):
        Reservoir.of_tensors(*batch, keep_mb=0.003)
    reservoir = Reservoir(keep_mb=0.0039)
    reservoir.observe(batch)
    assert reservoir.size == 1


@pytest.mark.parametrize(
    ("inputs", "targets", "told"),
    [
        (np.zeros((3, 2)), torch.zeros(3), "data has inputs that are a ndarray"),
        ((torch.zeros(3, 2), [1, 2, 3]), torch.zeros(3), r"data has inputs\[1\] that are a list"),
        (torch.zeros(3, 2), torch.tensor(1.0), "data has targets"),
    ],
)
def test_data_that_is_no_tensors_is_named(inputs: Any, targets: Any, told: str) -> None:
    """With the cure."""
    with pytest.raises(DataError, match=f"{told}.*give tensors"):
        Reservoir.of_tensors(inputs, targets)


def test_arrays_are_taken_as_they_are() -> None:
    """Read-only ones, reversed ones, ones of another byte order, lists of them: no warning, and no memory is shared."""
    plain = np.arange(12.0, dtype=np.float32).reshape(6, 2)
    closed = plain.copy()
    closed.flags.writeable = False
    targets = np.arange(6)
    shut = targets.copy()
    shut.flags.writeable = False
    cases: list[tuple[Any, Any]] = [
        ((closed, shut), plain),
        ((closed, shut, np.broadcast_to(np.float32(1.0), 6)), plain),
        ((plain[::-1], targets[::-1]), plain),
        ((plain.astype(">f4"), targets.astype(">i8")), plain),
        ((plain, list(targets)), plain),
        ((plain, [np.array(target) for target in targets]), plain),
    ]
    for batch, expected in cases:
        reservoir = Reservoir()
        reservoir.observe(batch)
        seen = only(reservoir)
        order = seen.targets.argsort()
        assert torch.equal(seen.args[0][order], torch.from_numpy(expected))


def test_the_same_seed_keeps_the_same_samples_and_no_global_state_is_touched() -> None:
    """The choice has a generator of its own."""
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    reservoirs = [Reservoir(keep=10, seed=3) for _ in range(2)]
    for reservoir in reservoirs:
        reservoir.observe(numbered(100))
    assert drawn(reservoirs[0]) == drawn(reservoirs[1])
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # type: ignore[arg-type]


def test_batches_are_copied_and_left_as_they_are() -> None:
    """A loop may change its batch in place afterwards; dtypes are kept."""
    inputs, targets = torch.ones(4, 3, dtype=torch.bfloat16), torch.arange(4)
    reservoir = Reservoir()
    reservoir.observe((inputs, targets))
    inputs.zero_()
    _, batch = next(reservoir.rows(4, np.random.default_rng(0)).batches(4, CPU))
    assert batch.args[0].dtype == torch.bfloat16
    assert batch.args[0].float().sum() == 12


def test_an_epochs_rows_stay_until_the_next_has_as_many() -> None:
    """There is always a sample, and after an epoch none of its rows is older than that."""
    reservoir = Reservoir(keep=30)
    reservoir.begin()
    reservoir.observe(numbered(30))
    reservoir.begin()
    reservoir.observe(numbered(20, 100))
    assert max(drawn(reservoir)) < 30
    reservoir.observe(numbered(10, 120))
    assert min(drawn(reservoir)) >= 100
    assert reservoir.size == 30


def test_equal_rows_count_once_where_epochs_are_not_announced() -> None:
    """Several epochs by hand are one sample; a loop that announces epochs and draws twice means it."""
    by_hand, announced = Reservoir(), Reservoir()
    announced.begin()
    for _ in range(3):
        by_hand.observe(numbered(10))
        announced.observe(numbered(10))
    assert drawn(by_hand) == list(range(10))
    assert len(drawn(announced)) == 30


def test_a_full_sample_by_hand_is_followed_by_a_new_one() -> None:
    """`mark` ends what is full; what is not goes on."""
    reservoir = Reservoir(keep=10)
    reservoir.observe(numbered(5))
    reservoir.mark()
    reservoir.observe(numbered(5, 5))
    reservoir.mark()
    reservoir.observe(numbered(10, 100))
    assert drawn(reservoir) == list(range(100, 110))


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.tensor([float(n)]), n) for n in range(8)])


class _Dicts(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": torch.full((3,), index), "attention_mask": torch.ones(3), "labels": index}


def test_only_what_the_loader_draws_is_seen() -> None:
    """A sampler's other rows, streams and dictionaries: the batches say it all."""
    inputs, targets = numbered(40)
    loaders: list[tuple[Any, list[int]]] = [
        (DataLoader(TensorDataset(inputs, targets), 4, sampler=SubsetRandomSampler(range(20))), list(range(20))),
        (DataLoader(_Stream(), 4), list(range(8))),
        (DataLoader(_Dicts(), 4), list(range(8))),
    ]
    for loader, expected in loaders:
        reservoir = Reservoir()
        for batch in loader:
            reservoir.observe(batch)
        assert drawn(reservoir) == expected


def only(reservoir: Reservoir) -> Batch:
    return next(reservoir.rows(100, np.random.default_rng(0)).batches(100, CPU))[1]


def test_batches_of_every_form_are_split() -> None:
    """Weights, several inputs, mappings by Hugging Face's convention, and one's own `split`."""
    inputs, targets = numbered(6)
    weights, flags = torch.rand(6), {"return_dict": True, "past": None}
    cases: list[tuple[Any, Any, int, set[str]]] = [
        ((inputs, targets, weights), None, 1, set()),
        ([(inputs, inputs), targets], None, 2, set()),
        ({"input_ids": inputs, "mask": inputs, "labels": targets}, None, 0, {"input_ids", "mask"}),
        (UserDict({"x": inputs, "y": targets}), None, 1, set()),
        ((inputs.numpy(), targets.numpy()), None, 1, set()),
        ("odd", lambda _: ((inputs,), flags, targets, weights), 1, set(flags)),
        ("odd", lambda _: Batch((inputs,), {}, targets), 1, set()),
    ]
    for batch, split, args, kwargs in cases:
        reservoir = Reservoir(split=split)
        reservoir.observe(batch)
        seen = only(reservoir)
        assert (len(seen.args), set(seen.kwargs)) == (args, kwargs)
        assert sorted(seen.targets.tolist()) == list(range(6))
    assert seen.weights is None


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(3, 2),
        (1, 2, 3, 4),
        {"a": torch.zeros(3)},
        {"x": torch.zeros(3), "label": torch.zeros(3), "y": torch.zeros(3)},
        (torch.zeros(5, 2), torch.zeros(3)),
        ("text", torch.zeros(3)),
        (torch.zeros(3, 2), "text"),
    ],
)
def test_what_cannot_be_split_is_refused_with_the_cure(batch: Any) -> None:
    """Nothing is guessed; the error is the trainer's own and names `split`."""
    with pytest.raises(DataError, match="split=lambda batch"):
        Reservoir().observe(batch)
    assert issubclass(DataError, TrainerError)


@pytest.mark.parametrize(
    ("third", "told"),
    [
        (["a.png"] * 3, "the weights are a list"),
        ({"path": ["a"] * 3}, "the weights are a dict"),
        (np.array(["a"] * 3), "the weights are a ndarray"),
        (0.7, "one number"),
        (torch.tensor(0.7), "one number"),
        (torch.arange(3), "are these indices"),
        ([0, 1, 2], "are these indices"),
        (torch.ones(3, dtype=torch.bool), "its weights, is bool"),
        (torch.ones(3, dtype=torch.complex64), "complex"),
    ],
)
def test_a_third_part_that_is_no_weights_is_refused_with_the_cure(third: Any, told: str) -> None:
    """File names, metadata, the loss scale, the sample's index: none of them is taken for weights."""
    inputs, targets = numbered(3)
    for batch in ((inputs, targets, third), [{"x": inputs}, targets, third]):
        with pytest.raises(DataError, match=rf"(?s){told}.*split=lambda batch"):
            Reservoir().observe(batch)


def test_whole_weights_are_taken_where_split_says_that_they_are_weights() -> None:
    """And a Batch of arrays and lists is as good as one of tensors."""
    inputs, targets = numbered(3)
    for split in (
        lambda _: ((inputs,), {}, targets, torch.arange(3)),
        lambda _: Batch((inputs,), {}, targets.tolist(), np.arange(3)),
        lambda _: Batch(inputs, {}, targets.numpy(), torch.arange(3)),  # type: ignore[arg-type]
    ):
        reservoir = Reservoir(split=split)
        reservoir.observe("odd")
        seen = only(reservoir)
        assert seen.weights is not None
        assert torch.equal(seen.weights, seen.targets)


def raising(error: Exception) -> Any:
    def split(batch: Any) -> Any:
        raise error

    return split


@pytest.mark.parametrize(
    ("batch", "split", "told"),
    [
        ("odd", raising(KeyError("mask")), "`split` fails on this batch, a str .*KeyError: 'mask'"),
        ((1, 2), raising(ZeroDivisionError()), "`split` fails on this batch, a tuple of 2"),
        ("odd", lambda _: Batch((torch.zeros(3, 1),), {}, "text"), "the targets are a str"),  # type: ignore[arg-type]
        ("odd", lambda _: Batch((torch.zeros(3, 1),), {}, torch.zeros(3), "text"), "the weights"),  # type: ignore[arg-type]
        ("odd", lambda _: ((torch.zeros(3, 1),), {}, torch.zeros(3), torch.tensor(1.0)), "one number"),
        ((np.array(["a", "b"]), torch.zeros(2)), None, "array of this batch is of <U1"),
        ((torch.zeros(2, 1), torch.zeros(2, dtype=torch.complex64)), None, "complex"),
    ],
)
def test_whatever_is_wrong_with_a_batch_is_the_trainers_own_error(batch: Any, split: Any, told: str) -> None:
    """Nothing raw comes out of reading a batch."""
    with pytest.raises(DataError, match=told):
        Reservoir(split=split).observe(batch)


INPUTS, TARGETS = numbered(60)


def time_major(batch: Any) -> Any:
    return (batch[0].transpose(0, 1),), {}, batch[1]


def labelled(batch: Any) -> Any:
    return (batch[0][batch[1] % 2 == 0],), {}, batch[1][batch[1] % 2 == 0]


COUNTED: dict[str, tuple[Any, Any, int]] = {
    "a mapping that begins with something else": (
        {"class_weights": torch.ones(4), "x": INPUTS, "y": TARGETS},
        lambda batch: ((batch["x"],), {}, batch["y"]),
        60,
    ),
    "the samples along the second dimension": ((INPUTS.expand(60, 7).T[..., None], TARGETS), time_major, 60),
    "rows that are left out": ((INPUTS, TARGETS), labelled, 30),
    "the targets first": ((TARGETS[None], INPUTS), lambda batch: ((batch[1],), {}, batch[0][0]), 60),
    "arrays": ((INPUTS.numpy(), TARGETS.numpy()), None, 60),
    "a mapping": ({"x": INPUTS, "y": TARGETS}, None, 60),
    "several inputs": (((INPUTS, INPUTS), TARGETS), None, 60),
    "a pair": ((INPUTS, TARGETS), None, 60),
}


@pytest.mark.parametrize("name", COUNTED)
def test_samples_are_counted_as_they_are_read(name: str) -> None:
    """Whatever comes first in the batch: all that is read is there to draw from, and numbers go with it."""
    batch, split, count = COUNTED[name]
    reservoir = Reservoir(split=split)
    reservoir.observe(batch, 100 + torch.arange(60)[:count] * (60 // count))
    assert (reservoir.seen, reservoir.size) == (count, count)
    rows = reservoir.rows(100, np.random.default_rng(0))
    assert all(rows.number(row) == 100 + int(rows.sample(row).targets) for row in range(count))
    with pytest.raises(DataError, match=f"index has {count + 1} numbers"):
        reservoir.observe(batch, torch.arange(count + 1))


def test_numbers_of_samples_that_split_leaves_out_are_asked_for() -> None:
    """They would name other rows; the cure is said."""
    with pytest.raises(DataError, match=r"60 numbers, and `split` gives 30 samples .* leave out the numbers"):
        Reservoir(split=labelled).observe((INPUTS, TARGETS), torch.arange(60))


def test_rows_of_different_lengths_are_grouped() -> None:
    """Batches hold equal shapes; row numbers say where each belongs, and the order is always the same."""
    reservoir = Reservoir()
    for length in (3, 5, 3):
        reservoir.observe((torch.zeros(4, length), torch.full((4,), length)))
    rows = reservoir.rows(100, np.random.default_rng(0))
    batches = list(rows.batches(3, CPU))
    assert sorted(np.concatenate([numbers for numbers, _ in batches]).tolist()) == list(range(len(rows)))
    for numbers, batch in batches:
        assert batch.args[0].shape[1] == batch.targets[0]
        again = next(rows.take(numbers).batches(100, CPU))[1]
        assert torch.equal(again.targets, batch.targets)


def test_rows_that_are_gathered_are_the_same_rows() -> None:
    """In the same batches, and not the kept ones themselves: a model may overwrite its input."""
    reservoir = Reservoir()
    for number in range(12):
        reservoir.observe((torch.rand(4, 3 + 2 * (number % 2)), torch.arange(4 * number, 4 * number + 4)))
    rows = reservoir.rows(30, np.random.default_rng(0))
    together = rows.together()
    for _ in range(2):
        for (numbers, batch), (again, gathered) in zip(rows.batches(7, CPU), together.batches(7, CPU), strict=True):
            np.testing.assert_array_equal(numbers, again)
            assert torch.equal(batch.args[0], gathered.args[0])
            assert torch.equal(batch.targets, gathered.targets)
            gathered.args[0].zero_()


def test_tensors_in_memory_are_sampled_without_batches() -> None:
    """The whole data is there at once; at most `keep` of it are kept, with their weights."""
    inputs, targets = numbered(100)
    reservoir = Reservoir.of_tensors((inputs, inputs), targets, targets.float(), keep=30, keep_mb=1, seed=1)
    assert (reservoir.size, reservoir.seen) == (30, 100)
    batch = only(reservoir)
    assert batch.weights is not None
    assert torch.equal(batch.args[1][:, 0], batch.weights)


def epoch_of(reservoir: Reservoir, rows: int, size: int = 4) -> None:
    reservoir.begin()
    for start in range(0, rows, size):
        reservoir.observe(numbered(size, start))


def test_later_epochs_copy_little_more_than_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an epoch of the same length would have to let go again is not copied, and as much is kept."""
    copied = list[int]()

    def copying(original: Callable[..., Cluster]) -> Callable[..., Cluster]:
        def counted(*args: Any) -> Cluster:
            copied.append((found := original(*args)).count)
            return found

        return counted

    reservoir = Reservoir(keep=200)
    epoch_of(reservoir, 4000)
    monkeypatch.setattr(Cluster, "copy", copying(Cluster.copy))
    monkeypatch.setattr(Cluster, "take", copying(Cluster.take))
    for _ in range(3):
        copied.clear()
        epoch_of(reservoir, 4000)
        assert sum(copied) <= 400
        reservoir.begin()
        assert 80 <= reservoir.size <= 200


@pytest.mark.parametrize("shorter", [20, 200, 900])
def test_an_epoch_that_is_shorter_than_foreseen_leaves_enough(shorter: int) -> None:
    """The last one's rows stay until one has given half as many as may be kept; the next is foreseen as it was."""
    reservoir = Reservoir(keep=200)
    epoch_of(reservoir, 4000)
    for _ in range(3):
        epoch_of(reservoir, shorter)
        assert reservoir.size >= 80
    reservoir.begin()
    assert reservoir.size >= min(80, shorter // 2)
    if shorter >= 200:
        assert max(drawn(reservoir)) < shorter


def test_a_resumed_run_keeps_what_it_would_have_kept() -> None:
    """Also in an epoch whose length an earlier one foretold."""
    whole = Reservoir(keep=200, seed=1)
    epoch_of(whole, 4000)
    resumed = Reservoir(keep=200, seed=1)
    resumed.load_state_dict(whole.state_dict())
    for reservoir in (whole, resumed):
        epoch_of(reservoir, 4000)
    assert drawn(whole) == drawn(resumed)
    older = Reservoir(keep=200, seed=1)
    older.load_state_dict({"random": whole.state_dict()["random"]})  # as older releases wrote it
    epoch_of(older, 4000)
    assert 80 <= older.size <= 200


def test_a_state_leaves_kept_samples_alone() -> None:
    """Those of data in memory, which no epoch brings again."""
    reservoir = Reservoir.of_tensors(*numbered(50))
    reservoir.load_state_dict(Reservoir().state_dict())
    assert reservoir.size == 50


@pytest.mark.parametrize("size", [1, 4, 64])
def test_rows_of_many_batches_come_in_their_order_and_as_copies(size: int) -> None:
    """Whether each batch gives one of them or all: what a model writes into its input is not written into them."""
    reservoir = Reservoir(keep=256)
    for start in range(0, 256, size):
        reservoir.observe(numbered(size, start))
    rows = reservoir.rows(256, np.random.default_rng(0))
    for some in (rows, rows.together(), rows.together().take(range(10, 74))):
        expected = [int(some.sample(row).targets) for row in range(len(some))]
        for _ in range(2):
            found = list[int]()
            for numbers, batch in some.batches(48, CPU):
                assert batch.targets.tolist() == batch.args[0][:, 0].int().tolist()
                found += [int(target) for target in batch.targets]
                assert numbers.tolist() == [*range(len(found) - len(numbers), len(found))]
                batch.args[0].zero_()
            assert found == expected
