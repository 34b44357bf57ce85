"""Records what a module's validation step logs, batch by batch, and leaves its metrics and loaders as they were."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import CaptureError
from trainer.scores import as_float


class Recorder:
    """Stands in for `LightningModule.log`, and reduces one logged name over batches as Lightning would.

    Numbers are averaged over samples, or reduced by the `reduce_fx` that they are logged with; a metric object is
    asked once. `suffix` is what Lightning appends to names where there are several loaders. What is logged both per
    step and per epoch has a second name, with `_epoch`; `names` are all by which the value is known. What is logged
    after the last batch goes before what batches logged under the same name.
    """

    def __init__(self, monitor: str) -> None:
        self._monitor = monitor
        self._values: list[tuple[float, int]] = []
        self._metric: Any = None
        self._reduce: str | Callable[..., Any] = "mean"
        self._rows, self._suffix = 1, ""
        self._over = self._logged_over = False
        self.names = {monitor}

    def begin(self, batch: Any, suffix: str) -> None:
        """A batch begins; None: they are over. A metric object is asked when its loader's last batch is done."""
        if self._metric is not None and (batch is None or suffix != self._suffix):
            self._values, self._metric, self._reduce = [(as_float(self._metric.compute()), 1)], None, "mean"
        self._rows, self._suffix, self._over = rows_of(batch), suffix, batch is None

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        **_: Any,
    ) -> None:
        """Note a value, if it is the one that counts; arguments as `LightningModule.log` has them."""
        suffix = self._suffix if add_dataloader_idx else ""
        names = {name + suffix, f"{name}_epoch{suffix}" if on_step else name + suffix}
        if on_epoch is False or self._monitor not in names:
            return
        if self._over and not self._logged_over:
            self._values, self._metric, self._logged_over = [], None, True
        self.names = names
        self._reduce = reduce_fx
        if hasattr(value, "compute"):
            self._metric = value
        else:
            self._values.append((as_float(value), batch_size or self._rows))

    def value(self) -> float:
        """The value over all batches; CaptureError if nothing of that name was logged."""
        if self._metric is not None:
            return as_float(self._metric.compute())
        if not self._values:
            raise CaptureError(f"validation_step logs no {self._monitor!r}")
        values, rows = torch.tensor(self._values, dtype=torch.float64).T
        kind = self._reduce.lower() if isinstance(self._reduce, str) else getattr(self._reduce, "__name__", "")
        if kind in ("mean", "avg"):
            return float((values * rows).sum() / rows.sum())
        reduce = getattr(torch, kind) if isinstance(self._reduce, str) else self._reduce
        return float(reduce(values))


def rows_of(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((rows_of(part) for part in parts if isinstance(part, Tensor | Mapping | tuple | list)), 1)


@contextmanager
def metrics_kept(module: nn.Module, kind: type[Any]) -> Iterator[None]:
    """Let the module's metrics (of class `kind`) begin anew, and have them afterwards as they were."""
    metrics = [part for part in module.modules() if isinstance(part, kind)]
    kept = [
        {name: list(value) if isinstance(value, list) else value for name, value in vars(metric).items()}
        for metric in metrics
    ]
    try:
        for metric in metrics:
            metric.reset()  # makes new tensors, but empties lists in place
        yield
    finally:
        for metric, values in zip(metrics, kept, strict=True):
            vars(metric).update(values)
