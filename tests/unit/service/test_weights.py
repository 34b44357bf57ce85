"""Weights as files: what an attempt leaves is what the next one begins from."""

import numpy as np

from solver_service import weights
from solver_service.milp.core.moved import Moved


def test_a_moved_tail_survives_the_way_to_the_next_attempt() -> None:
    """Weight, bias and the tail's last layer come back by their names; a missing bias stays missing."""
    tail = {"tail.1.weight": np.ones((2, 3), np.float32), "tail.1.bias": np.full(2, 0.5, np.float32)}
    again = weights.decode(weights.encode(Moved(np.zeros((3, 2), np.float32), None, tail)))
    assert again.bias is None
    np.testing.assert_array_equal(again.weight, np.zeros((3, 2)))
    assert sorted(again.tail) == ["tail.1.bias", "tail.1.weight"]
    np.testing.assert_array_equal(again.tail["tail.1.bias"], tail["tail.1.bias"])


def test_all_tail_layers_that_moved_travel_together() -> None:
    """A list of half-widths moves several layers; each comes back under its own number."""
    tail = {f"tail.{index}.weight": np.full((2, 2), index, np.float32) for index in (0, 2)}
    again = weights.decode(weights.encode(Moved(np.zeros((2, 2), np.float32), np.zeros(2, np.float32), tail)))
    assert sorted(again.tail) == ["tail.0.weight", "tail.2.weight"]
    np.testing.assert_array_equal(again.tail["tail.2.weight"], tail["tail.2.weight"])
