"""Gathers what a validation step logs, batch by batch, as the loop itself would."""

from collections.abc import Mapping
from typing import Any

from trainer.errors import CaptureError


class Means:
    """The mean of one logged name over batches, each weighted by its samples; a metric object speaks for itself."""

    def __init__(self, monitor: str) -> None:
        self._monitor = monitor
        self._sum, self._weight, self._rows = 0.0, 0, 1
        self._metric: Any = None
        self.number = -1

    def next(self, rows: int) -> None:
        """A batch of so many samples begins."""
        self._rows = rows
        self.number += 1

    def log(self, name: str, value: Any, *_: Any, **options: Any) -> None:
        """Stand in for the module's own `log`."""
        if name != self._monitor:
            return
        if hasattr(value, "compute"):
            self._metric = value
            return
        rows = options.get("batch_size") or self._rows
        self._sum += rows * float(value)
        self._weight += rows

    def log_dict(self, values: Mapping[str, Any], *_: Any, **options: Any) -> None:
        """Stand in for the module's own `log_dict`."""
        for name, value in values.items():
            self.log(name, value, **options)

    def value(self) -> float:
        """The mean; CaptureError if nothing of that name was logged."""
        if self._metric is not None:
            found = float(self._metric.compute())
            self._metric.reset()
            return found
        if not self._weight:
            raise CaptureError(f"validation_step logs no {self._monitor!r}")
        return self._sum / self._weight
