"""Merge candidates: the values that a block may take when its answer arrives in a model that has moved on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.model.blocks import Values

PARTS = (1.0, 0.5, 0.25)


@dataclass(frozen=True, eq=False)
class MergeCandidate:
    """One way to adopt an answer: its name, and the values of the parameters that it changes."""

    name: str
    values: Values


def merge_candidates(current: Values, start: Values, answer: Values) -> Iterator[MergeCandidate]:
    """Yield the ways to merge `answer` (the block's parameters) into `current` (what they are now).

    `start` is what they were in the snapshot. In turn: the block replaced; its change added to the current block, whole
    and in part. Candidates that would be the same are left out.
    """
    yield MergeCandidate("block", answer)
    moved = any(not np.array_equal(current[name], start[name]) for name in answer)
    for part in PARTS:
        if part < 1.0 or moved:
            shifted = {name: current[name] + np.float32(part) * (answer[name] - start[name]) for name in answer}
            yield MergeCandidate(f"change x {part:g}", shifted)
