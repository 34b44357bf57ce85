"""Samples that good solutions agree to give up: which, in which order, and how many."""

import numpy as np

from solver_service.milp.core.suspects import MOST, suspects_of


def found(*margins, **options):
    """(index, margin, share) of the suspects in these solutions' margins."""
    suspects = suspects_of([np.array(values, dtype=float) for values in margins], **options)
    return [(suspect.index, suspect.margin, suspect.share) for suspect in suspects]


def test_no_solution_has_no_suspects():
    """Nothing is said where nothing is known."""
    assert found() == []


def test_one_solution_names_what_it_gives_up_worst_first():
    """Of one solution, all samples below the need, the lowest margin first."""
    assert found([0.5, -0.1, -2.0, 0.0]) == [(2, -2.0, 1.0), (1, -0.1, 1.0)]


def test_a_sample_that_another_solution_saves_is_no_suspect():
    """Where solutions disagree, the sample can be had."""
    assert found([-1.0, -1.0], [-1.0, 1.0]) == [(0, -1.0, 1.0)]


def test_a_sample_that_only_the_best_solution_saves_is_no_suspect():
    """The best solution is among those that have to agree."""
    assert found([1.0], *[[-1.0]] * 9) == []


def test_most_of_the_solutions_are_enough_and_agreement_comes_first():
    """A share is told, and counts before the margin."""
    others = [[-1.0, -1.0]] * 3 + [[-1.0, 3.0]]
    assert found([-1.0, -9.0], *others) == [(0, -1.0, 1.0), (1, -9.0, 0.8)]


def test_the_need_and_the_places_are_those_asked_for():
    """A count's threshold decides, and samples are named as in the snapshot."""
    assert found([5e-5, 1e-4], index=np.array([7, 9]), need=1e-4) == [(7, 5e-5, 1.0)]


def test_equal_samples_come_in_the_order_of_the_snapshot():
    """Ties say the same every time."""
    assert [index for index, _, _ in found([-1.0] * 3, index=np.array([5, 1, 3]))] == [1, 3, 5]


def test_no_more_than_a_hundred_are_told():
    """A result stays readable where a solution gives up on thousands."""
    assert len(found(-np.arange(1.0, 1000.0))) == MOST
