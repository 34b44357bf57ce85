"""Compares what a loop gives its model with the batch that it was handed: a loop may change inputs in between."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer.samples.batches import Batch, tensors_in

LOOKS = 8
"""So many batches are looked at."""
AGREEING = 3
"""So many batches in a row have to be changed alike: a factor may be a matter of chance now and then."""
ROWS, COLUMNS = 64, 4096
"""Of each tensor, at most."""
FEWEST = 32
"""Steps from one value to the next larger one that have to be steps in what the model takes, too."""
SMALL = 0.05
"""A change that is smaller than this share of the values' spread does no harm."""
ALIKE = 1e-2
"""Relative error of values in half precision, with room."""


class Given:
    """Looks at the first batches of a loop, until one is given to the model as it was, and tells of changed inputs.

    Changed are values that keep their order, column by column: scaled, shifted, or as logarithms. What augmentation
    does has no such order, and is no fault. A hook is on the model from when a batch is handed out to when the model
    takes it, never at any other time.
    """

    def __init__(self, model: nn.Module, tell: Callable[[], None], compares: bool = True) -> None:
        self._model, self._tell = model, tell
        self._left = LOOKS if compares and not isinstance(model, torch.jit.ScriptModule) else 0
        self._compiled: int | None = None
        self._changed = 0
        self._handle: RemovableHandle | None = None

    def begin(self, read: Callable[[], Batch]) -> None:
        """A batch is handed to the loop; it is read if it is to be looked at."""
        self.end()
        if self._left <= 0 or self._compiles():
            return
        self._left -= 1
        try:
            batch = read()
            before = [_few(part).clone() for part in tensors_in([batch.args, batch.kwargs]) if part.dim()]
        except Exception:  # what cannot be read is told of elsewhere
            return
        self._handle = self._model.register_forward_pre_hook(_Look(before, self._seen), with_kwargs=True)

    def _compiles(self) -> bool:
        """Whether the first batch is to come, or the loop compiles: a hook would have it compile once more."""
        before, self._compiled = self._compiled, _compiled()
        if before is not None and before != self._compiled:
            self._left = 0
        return before != self._compiled

    def end(self) -> None:
        """The model was not called with what is comparable, and is no longer looked at."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _seen(self, changed: bool | None) -> None:
        self.end()
        self._changed = self._changed + 1 if changed else 0
        if changed is False or self._changed == AGREEING:
            self._left = 0
        if self._changed == AGREEING:
            self._tell()


class _Look:
    """The hook; a copy of the model, in memory or in a file, has one that does nothing."""

    def __init__(self, before: Sequence[Tensor], seen: Callable[[bool | None], None]) -> None:
        self._before, self._seen = before, seen

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or _captures():
            return
        found = None
        with suppress(Exception), torch.no_grad():  # the loop's call goes on, whatever it is given
            found = _compared(self._before, list(tensors_in([args, kwargs])))
        self._seen(found)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Look, ((), bool)


def _compiled() -> int:
    """How many functions were compiled in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    counters = getattr(dynamo, "counters", None) or {}
    return sum(dict(counters.get("frames", {})).values())


def _captures() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _few(values: Tensor) -> Tensor:
    """Some rows and columns [n, d], on the host; never the tensor's own memory, where that is copied."""
    rows = values.detach()[:ROWS]
    return rows.reshape(len(rows), -1)[:, :COLUMNS].to("cpu", torch.float64)


def _compared(before: Sequence[Tensor], given: Sequence[Tensor]) -> bool | None:
    """Whether the tensors were changed, False where they are the same; None where that cannot be told."""
    found = [part for part in given if part.dim()]
    if not before or len(found) != len(before) or any(type(part) is not Tensor for part in found):
        return None
    verdicts = [_changed(old, _few(new)) for old, new in zip(before, found, strict=True)]
    if True in verdicts:
        return True
    return None if None in verdicts else False


def _changed(old: Tensor, new: Tensor) -> bool | None:
    if old.shape != new.shape or not old.numel():
        return None
    if torch.allclose(old, new, rtol=ALIKE, atol=1e-6):
        return False
    spread = float(old.std(dim=0, correction=0).mean())
    if float((new - old).abs().mean()) <= SMALL * spread:
        return None
    order = old.argsort(dim=0)
    steps, kept = (part.gather(0, order).diff(dim=0) for part in (old, new))
    least = 1e-6 * float(new.abs().max())
    still = (steps > 0) | (kept.abs() <= least)  # equal values stay equal
    ordered = ((kept >= -least) & still).all(dim=0) | ((kept <= least) & still).all(dim=0)
    moves, moved = int((steps > 0).sum()), int(((steps > 0) & (kept.abs() > least)).sum())
    return True if bool(ordered.all()) and moves >= FEWEST and moved >= 0.9 * moves else None
