"""Says why a model cannot be run on rows of several batches, where it can be on a batch as the loop composed it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from shared.snapshot import Task
from trainer.errors import CaptureError, TrainerError
from trainer.model.live import device_of
from trainer.model.watch import run
from trainer.samples.batches import Batch
from trainer.samples.heads import views
from trainer.samples.outputs import by_rows, candidates, tensor_at
from trainer.samples.rows import Rows

WHOLE = (
    "the model only takes batches as the loop composes them: a whole one of {} runs, and a part of it does not ({}); "
    "let forward take any rows: no batch size written into it, sequences padded to the length that they came with "
    "(pad_packed_sequence(..., total_length=...)) and in any order (enforce_sorted=False)"
)
GRADIENTS = (
    "the model needs gradients inside its forward, and is looked at without any ({}); let forward ask for them itself, "
    "`with torch.enable_grad():` around that part"
)


@contextmanager
def told(
    model: nn.Module, rows: Rows, task: Task | None, ignore_index: int, *kinds: type[TrainerError]
) -> Iterator[None]:
    """Raise errors of these kinds in better words: what a part of a batch causes is no fault of the loop's data."""
    try:
        yield
    except kinds as error:
        batch = rows.whole(device_of(model))
        fit = partial(_fits, model, batch, task, ignore_index)
        if batch is None or (better := _better(model, batch, fit, error)) is None:
            raise
        raise CaptureError(better) from error


def _better(model: nn.Module, batch: Batch, fit: Callable[[], object], error: TrainerError) -> str | None:
    why = str(error.__cause__ or error).partition(";")[0]
    if _works(fit):
        return WHOLE.format(batch.samples, why)
    runs = partial(run, model, batch)
    with torch.enable_grad():
        needs_gradients = _works(runs)
    return GRADIENTS.format(why) if needs_gradients and not _works(runs) else None


def _fits(model: nn.Module, batch: Any, task: Task | None, ignore_index: int) -> None:
    """Raise an error unless the model runs on a batch, and puts out what fits its targets."""
    output = run(model, batch)
    path = candidates(output, batch.targets, task, ignore_index, batch.samples)[0].path
    views(by_rows(tensor_at(output, path), batch.samples), batch.targets, task, ignore_index, batch.samples)


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except TrainerError:
        return False
    return True
