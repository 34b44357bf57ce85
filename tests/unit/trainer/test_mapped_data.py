"""Arrays as `data=`: whatever their memory is like, the rows that are kept are the only ones that are read."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.errors import DataError
from trainer.samples.sources import reservoir_of

ROWS, WIDTH, KEEP = 200_000, 32, 100
LIKE: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "writable": lambda part: part,
    "read-only": lambda part: part,
    "of another byte order": lambda part: part.view(part.dtype.newbyteorder(">")).astype(part.dtype.newbyteorder(">")),
    "reversed": lambda part: part[::-1],
    "every second": lambda part: np.repeat(part, 2, axis=0)[::2],
}


@pytest.mark.parametrize("kind", LIKE)
def test_only_the_rows_that_are_kept_are_read(kind: str, tmp_path: Path) -> None:
    """25 MB of inputs in a file, of which 100 rows are kept: nothing near that is taken."""
    for name, part in (("x", np.arange(ROWS * WIDTH, dtype=np.float32)), ("y", np.arange(ROWS))):
        np.save(tmp_path / f"{name}.npy", part.reshape(ROWS, -1).squeeze())
    mode: Any = "r" if kind == "read-only" else "r+"
    x, y = (LIKE[kind](np.load(tmp_path / f"{name}.npy", mmap_mode=mode)) for name in "xy")
    tracemalloc.start()
    try:
        found = reservoir_of((x, y), None, keep=KEEP, keep_mb=256.0, seed=0)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < x.nbytes / 5
    assert found.size == KEEP
    assert found.seen == ROWS
    kept = found.rows(KEEP, np.random.default_rng(0))
    for numbers, batch in kept.batches(KEEP, torch.device("cpu")):
        at = [kept.number(row) for row in numbers.tolist()]
        assert np.array_equal(batch.args[0], x[at])
        assert np.array_equal(batch.targets, y[at])


def test_an_array_that_torch_does_not_have_is_named() -> None:
    """As in a batch."""
    with pytest.raises(DataError, match="torch does not have"):
        reservoir_of((np.array([["a"], ["b"]]), np.arange(2)), None, keep=KEEP, keep_mb=1.0, seed=0)
