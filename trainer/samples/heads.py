"""Reads a model's output and the targets beside it as positions: one row of scores each, whatever the head's shape."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.snapshot import FloatArray, IntArray, Task
from trainer.errors import DataError, MisfitError

BINARY_OR_NUMBERS = 'say which they are: task="binary" (one logit) or task="regression"'
LABELS_OR_NUMBERS = 'say which they are: task="multilabel" (independent logits) or task="regression"'


@dataclass(frozen=True)
class View:
    """One way to read an output as positions: `axis` holds the scores of a position, None where it has but one."""

    task: Task
    axis: int | None

    def matrix(self, values: Tensor) -> Tensor:
        """A tensor of the output's shape as [P, K]."""
        if self.axis is None:
            return values.reshape(-1, 1)
        by_position = values.movedim(self.axis, -1)
        return by_position.reshape(-1, by_position.shape[-1])

    def targets(self, values: Tensor, positions: int) -> Tensor:
        """The targets as [P] or, for several outputs, [P, K]."""
        if self.axis is None or values.numel() == positions:
            return values.reshape(positions)
        return self.matrix(values)


def per_position(values: Tensor | None, positions: int, name: str) -> Tensor | None:
    """Each position's weight or group [P] from one a sample [n] or one a position [n, ...]; DataError otherwise."""
    if values is None or values.numel() == positions:
        return None if values is None else values.reshape(-1)
    if values.dim() == 0 or not len(values) or values.numel() != len(values) or positions % len(values):
        raise DataError(
            f"the {name} have shape {list(values.shape)} for {positions} positions; give one a sample, or one a "
            "position"
        )
    return values.reshape(-1).repeat_interleave(positions // len(values))


def views(output: Tensor, targets: Tensor, task: Task | None, ignore_index: int, rows: int | None = None) -> list[View]:
    """The ways in which an output and its targets fit together, the likelier first; targets may be of more samples.

    `rows` is how many samples the output is of, where the targets are of more.
    Without `task` it is inferred. Raises DataError, naming the cure, if nothing fits, or if two tasks do that differ.
    """
    if task is None:
        _refuse_guesses(output, targets, ignore_index)
    chosen = fitting(output, targets, task)
    if not chosen:
        asked = f" for task={task!r}" if task else ""
        beside = [rows or len(targets), *targets.shape[1:]]
        raise MisfitError(
            f"an output of shape {list(output.shape)} does not fit {_kind(targets)} targets of shape {beside}{asked}; "
            f"{_expected(task)}. If the loss reshapes them, give `split` that does, too"
        )
    return chosen


def fitting(output: Tensor, targets: Tensor, task: Task | None) -> list[View]:
    """The ways in which shapes fit, of this task or of that which the targets' dtype says; values are not looked at."""
    found = _fitting(output, targets)
    return [view for view in found if view.task == (_inferred(view, targets) if task is None else task)]


def _fitting(output: Tensor, targets: Tensor) -> Iterator[View]:
    """Every way in which shapes fit, as every task that has such shapes."""
    shape, wanted = tuple(output.shape), (len(output), *targets.shape[1:])
    whole = not targets.is_floating_point()
    axes = [len(shape) - 1, *([1] if len(shape) > 2 else [])]
    for axis in axes if len(shape) > 1 else []:
        rest = shape[:axis] + shape[axis + 1 :]
        if shape[axis] > 1 and wanted in (rest, (*rest, 1)):
            yield View("classification", axis)
        if shape[axis] > 1 and wanted == shape:
            yield from (View(task, axis) for task in ("multilabel", "regression", "classification"))
        if shape[axis] == 1 and wanted in (rest, shape):
            yield from _single(axis, whole=whole)
    if wanted == shape or (len(shape) == 1 and wanted == (*shape, 1)):
        yield from _single(None, whole=whole)


def _single(axis: int | None, *, whole: bool) -> Iterator[View]:
    yield View("binary", axis)
    yield View("regression", axis)


def _inferred(view: View, targets: Tensor) -> Task | None:
    """The task that the targets' dtype says; values are checked later."""
    if targets.is_floating_point():
        return "regression"
    return view.task if view.task != "regression" else None


def _refuse_guesses(output: Tensor, targets: Tensor, ignore_index: int) -> None:
    """Raise DataError where the values may mean two things."""
    alike = math.prod(output.shape[1:]) == math.prod(targets.shape[1:])
    single = output.dim() == 1 or output.shape[-1] == 1 or output.shape[1:] != targets.shape[1:]
    known = targets[targets != ignore_index] if not targets.is_floating_point() else targets
    zero_one = bool(((known == 0) | (known == 1)).all()) and known.numel() > 0
    if not targets.is_floating_point():
        if not zero_one and alike and known.numel() > 0:
            raise DataError(
                f"whole numbers {int(known.min())} to {int(known.max())} beside an output of shape "
                f'{list(output.shape)} are no labels 0 and 1; say task="regression", or put out a score per class'
            )
        if zero_one and not single and output.dim() == 2 and bool((targets.sum(dim=-1) == 1).all()):
            raise DataError('the targets are one-hot; say task="classification", or task="multilabel"')
        return
    if zero_one and single and alike:
        raise DataError(_labels_or_numbers(known, " beside one output", BINARY_OR_NUMBERS))
    if not single and output.dim() == 2:
        sums = known.sum(dim=-1)
        if bool((known >= 0).all()) and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-3).all()):
            what = "one-hot" if zero_one else "probabilities"
            raise DataError(
                f"the targets are {what}: give classes by split=lambda batch: (args, kwargs, targets.argmax(-1)), or "
                f'say task="regression"'
            )
    if zero_one and not single:
        raise DataError(_labels_or_numbers(known, "", LABELS_OR_NUMBERS))


def _labels_or_numbers(known: Tensor, where: str, cure: str) -> str:
    """Targets of 0 and 1 may be either; where they do not differ, somebody may have lost what they were."""
    first = known.reshape(-1)[0]
    if bool((known != first).any()):
        return f"the targets are 0 and 1 as floating-point numbers{where}; {cure}"
    return (
        f"every target is {float(first):g}, as a floating-point number{where}: if they should differ, look where the "
        f"batches take them from; if not, {cure}"
    )


def _kind(targets: Tensor) -> str:
    return "floating-point" if targets.is_floating_point() else "integer"


def _expected(task: Task | None) -> str:
    return {
        "classification": "scores [N, K], [N, T, K] or [N, K, H, W] need integer targets [N], [N, T] or [N, H, W]",
        "binary": "one logit [N] or [N, 1] needs targets [N] of 0 and 1",
        "multilabel": "logits [N, K] need targets [N, K] of 0 and 1",
        "regression": "outputs [N, k] need targets of the same shape",
    }.get(
        task or "",
        "integer targets need a score per class along the last dimension or dimension 1, floating-point ones the "
        "output's shape",
    )


def wire_targets(view: View, targets: Tensor, classes: int) -> FloatArray | IntArray:
    """Targets [P] or [P, K] as a snapshot has them; DataError for values that the task does not have."""
    if view.task == "regression":
        values = targets.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise DataError("the targets hold NaN or infinity; leave such samples out in `split`")
        return np.asarray(values, dtype=np.float32)
    if view.task == "classification" and targets.dim() == 2:
        targets = _classes(targets)
    found = targets.double().cpu().numpy()
    most = classes - 1 if view.task == "classification" else 1
    if found.size and (found != np.rint(found)).any():
        raise DataError(
            f'the targets of task="{view.task}" are not whole numbers; say task="regression" if they are numbers'
        )
    if found.size and (found.min() < 0 or found.max() > most):
        raise DataError(
            f"the targets of task={view.task!r} are {found.min():g} to {found.max():g}, expected 0 to {most}"
            f"{_hint(view, found)}"
        )
    return np.asarray(found, dtype=np.int64)


def _hint(view: View, found: NDArray[np.float64]) -> str:
    if view.task == "classification" and found.min() < 0:
        return "; name the value that the loss leaves out as `ignore_index`"
    if view.task == "classification":
        return ""
    if found.min() < 0:
        return (
            "; `ignore_index` leaves out classes given as whole numbers, no single labels of a sample: leave such "
            "samples out by `split`, or give 0 and 1 there"
        )
    return "; labels may be given as 0 and 1 by `split`"


def _classes(targets: Tensor) -> Tensor:
    """One-hot rows as classes; probabilities are no classes."""
    if not bool((((targets == 0) | (targets == 1)).all(dim=1) & (targets.sum(dim=1) == 1)).all()):
        raise DataError('the targets are probabilities, not classes; give classes by `split`, or say task="regression"')
    return targets.argmax(dim=1)
