"""Says why a model cannot be run on rows of several batches, where it can be on a batch as the loop composed it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from shared.snapshot import Task
from trainer.errors import CaptureError, TrainerError
from trainer.model.live import device_of
from trainer.model.watch import run
from trainer.samples.batches import Batch
from trainer.samples.forms import put_together, take_apart
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
AUTOCAST = (
    "the model runs under torch.autocast alone ({}); call observe and step inside it, as the loop calls the model, or "
    "let forward enter it: @torch.autocast(...) before its definition"
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
        fit = partial(_fits, model, task, ignore_index)
        if batch is None or (better := _better(model, batch, fit, error)) is None:
            raise
        raise CaptureError(better) from error


def _better(model: nn.Module, batch: Batch, fit: Callable[[Batch], object], error: TrainerError) -> str | None:
    why = str(error.__cause__ or error).partition(";")[0]
    if _works(partial(fit, batch)):
        if all(_works(partial(fit, part)) for part in _halves(batch)):
            return None  # what does not run is something else than a part of a batch
        return WHOLE.format(batch.samples, why)
    runs = partial(run, model, batch)
    if _works(runs):
        return None
    with torch.enable_grad():
        if _works(runs):
            return GRADIENTS.format(why)
    with torch.autocast(device_of(model).type):
        return AUTOCAST.format(why) if _works(runs) else None


def _fits(model: nn.Module, task: Task | None, ignore_index: int, batch: Batch) -> None:
    """Raise an error unless the model runs on a batch, and puts out what fits its targets."""
    output = run(model, batch)
    path = candidates(output, batch.targets, task, ignore_index, batch.samples)[0].path
    views(by_rows(tensor_at(output, path), batch.samples), batch.targets, task, ignore_index, batch.samples)


def _halves(batch: Batch) -> list[Batch]:
    """Its first and its last samples; none of a batch of one."""
    leaves, form = take_apart(batch)
    order = torch.arange(batch.samples, device="cpu")
    parts = [part for part in order.tensor_split(2) if len(part)] if batch.samples > 1 else []
    return [put_together(form, [leaf[part.to(leaf.device)] for leaf in leaves]) for part in parts]


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except TrainerError:
        return False
    return True
