"""Which samples a snapshot holds."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from trainer.errors import CaptureError
from trainer.snapshots.samples import choose_by_margin, choose_evenly, open_source


def pool(wrong: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    margins = np.concatenate([np.full(wrong, -1.0), np.linspace(0.01, 5, right)])
    return margins, np.arange(wrong + right) % 5


def test_the_choice_mixes_wrong_near_and_easy_samples() -> None:
    """About 40 % misclassified, 30 % near the margin, and the rest easy ones to guard."""
    margins, classes = pool(wrong=200, right=800)
    chosen = choose_by_margin(margins, classes, 100, np.random.default_rng(0)).positions
    assert len(set(chosen)) == 100
    assert (margins[chosen] <= 0).sum() == 40
    assert (margins[chosen] > 1.0).sum() >= 25


def test_classes_are_balanced_within_each_kind() -> None:
    """No class is left out because another has more samples."""
    margins = np.full(1000, -1.0)
    classes = np.where(np.arange(1000) < 950, 0, 1)
    chosen = choose_by_margin(margins, classes, 60, np.random.default_rng(0)).positions
    assert (classes[chosen] == 1).sum() == 30


def test_weights_undo_the_over_representation() -> None:
    """Weighted, the chosen samples have the pool's share of errors, so easy ones are not traded for hard ones."""
    margins, classes = pool(wrong=100, right=1900)
    choice = choose_by_margin(margins, classes, 200, np.random.default_rng(0))
    assert choice.weights is not None
    wrong = margins[choice.positions] <= 0
    assert choice.weights[wrong].sum() / choice.weights.sum() == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(("wrong", "right"), [(0, 500), (500, 0), (5, 495), (495, 5)])
def test_any_mixture_gives_the_number_asked_for(wrong: int, right: int) -> None:
    """A kind with too few samples leaves its share to the others."""
    margins, classes = pool(wrong, right)
    chosen = choose_by_margin(margins, classes, 120, np.random.default_rng(0)).positions
    assert len(set(chosen)) == 120


def test_a_small_pool_is_taken_whole() -> None:
    """With no more samples than asked for, all are taken, unweighted."""
    choice = choose_by_margin(*pool(3, 5), 10, np.random.default_rng(0))
    assert len(choice.positions) == 8
    assert choice.weights is None


def test_the_same_seed_chooses_the_same_samples() -> None:
    """The choice depends on its own generator alone."""
    draws = [choose_by_margin(*pool(50, 200), 40, np.random.default_rng(7)).positions for _ in range(2)]
    np.testing.assert_array_equal(*draws)
    assert len(set(choose_evenly(100, 30, np.random.default_rng(1)).positions)) == 30


class _Pairs(Dataset[object]):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> object:
        return torch.full((2,), float(index)), index % 3


def test_every_kind_of_data_is_read_at_random() -> None:
    """A tensor pair, a data set and a loader all give the same samples, without the loader's shuffling."""
    inputs, targets = torch.stack([_Pairs()[i][0] for i in range(7)]), torch.arange(7) % 3  # type: ignore[index]
    for data in (
        (inputs, targets),
        TensorDataset(inputs, targets),
        _Pairs(),
        DataLoader(_Pairs(), batch_size=2, shuffle=True),
        DataLoader(TensorDataset(inputs, targets), batch_size=2, shuffle=True),
    ):
        source = open_source(data)  # type: ignore[arg-type]
        got, labels = source.fetch([4, 1])
        assert source.size == 7
        assert torch.equal(got, inputs[[4, 1]])
        assert torch.equal(labels, targets[[4, 1]])


def test_data_without_random_access_is_refused() -> None:
    """A stream cannot be sampled; the message says what can."""

    class Stream(IterableDataset[object]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(())

    with pytest.raises(CaptureError, match="map-style"):
        open_source(Stream())  # type: ignore[arg-type]
