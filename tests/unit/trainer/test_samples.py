"""Which samples a snapshot holds."""

import numpy as np
import pytest

from trainer.samples.choice import choose_by_margin, choose_evenly


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


def test_rare_classes_weigh_what_they_are() -> None:
    """A class is drawn more often than it is there, and each of its samples counts for as much less."""
    margins = np.full(1000, -1.0)
    classes = np.where(np.arange(1000) < 950, 0, 1)
    choice = choose_by_margin(margins, classes, 60, np.random.default_rng(0))
    assert choice.weights is not None
    rare = classes[choice.positions] == 1
    assert choice.weights[rare].sum() / choice.weights.sum() == pytest.approx(0.05, abs=1e-6)


def test_the_weighted_choice_is_unbiased() -> None:
    """Over many draws the weighted mean of anything is that of the whole pool."""
    rng = np.random.default_rng(0)
    margins, classes = rng.normal(1, 1, 2000), (rng.random(2000) ** 3 * 4).astype(np.int64)
    value = margins**2 + classes
    found = []
    for seed in range(200):
        choice = choose_by_margin(margins, classes, 200, np.random.default_rng(seed))
        assert choice.weights is not None
        found.append(np.average(value[choice.positions], weights=choice.weights))
    assert np.mean(found) == pytest.approx(value.mean(), rel=0.01)
