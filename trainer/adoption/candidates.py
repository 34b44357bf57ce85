"""Ways to bring an answer into a model that has moved on since its snapshot; which one to take is decided elsewhere."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = Mapping[str, Tensor]
PARTS = (1.0, 0.5, 0.25)


@dataclass(frozen=True, eq=False)
class MergeCandidate:
    """One way to adopt an answer: its name, and the values of the parameters and buffers that it changes."""

    name: str
    state: State


def merge_candidates(current: State, start: State, answer: State) -> Iterator[MergeCandidate]:
    """Yield the ways to merge `answer` (the block's parameters) into `current` (the model's state now).

    `start` is the whole state at the snapshot. In turn: the block replaced; its change added to the current block,
    whole and in part; the snapshot's model with the block replaced. Ways that would be the same are left out.
    """
    answer = {name: values.reshape(current[name].shape) for name, values in answer.items()}
    yield MergeCandidate("block", answer)
    moved = not _same(current, start, answer)
    for part in PARTS:
        if part < 1.0 or moved:
            yield MergeCandidate(
                f"change x {part:g}", {name: _shifted(current, start, answer, name, part) for name in answer}
            )
    if not _same(current, start, (name for name in start if name not in answer)):
        yield MergeCandidate("snapshot", {**start, **answer})


def _shifted(current: State, start: State, answer: State, name: str, part: float) -> Tensor:
    change = answer[name].to(current[name]) - start[name].to(current[name])
    return current[name] + part * change


def _same(left: State, right: State, names: Iterator[str] | State) -> bool:
    return all(torch.equal(left[name].cpu(), right[name].cpu()) for name in names)
