"""Shows a tunneller's events in TensorBoard: `Tunneller(..., on_event=Scalars(SummaryWriter()))`.

Anything with TensorBoard's `add_scalar(tag, value, step)` will do; nothing is imported.
"""

import math
from collections import Counter
from typing import Protocol

from trainer.events import Event


class Writer(Protocol):
    """What is used of a `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Add one point to the curve `tag`."""


class Scalars:
    """A listener for `on_event` that turns events into curves over the optimizer's steps.

    `stalls`, `polishes` (tries of the last tunnel), `adopted`, `rejected`, `refused` and `failed` count; `gain` is what
    an adoption changed the validation score by, `validation` the score before and after it; `objective_gain` is the
    share of its objective that an answer took off, and `job_s` how long it was out. `prefix` comes before every name.
    """

    def __init__(self, writer: Writer, prefix: str = "gdsolver") -> None:
        self._writer, self._prefix = writer, prefix
        self._counts: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        """Add an event's points."""
        if event.kind in ("stall", "polish", "adopted", "rejected", "refused", "failed"):
            name = {"stall": "stalls", "polish": "polishes"}.get(event.kind, event.kind)
            self._counts[name] += 1
            self._add(name, self._counts[name], event)
        before, after = event.before, event.after
        if event.kind == "answered" and event.seconds is not None:
            self._add("job_s", event.seconds, event)
        if before is None or after is None:
            return
        if event.kind == "adopted":
            self._add("validation/before", before, event)
            self._add("validation/after", after, event)
            self._add("gain", abs(after - before), event)
        if event.kind == "answered" and before != 0:
            self._add("objective_gain", (before - after) / abs(before), event)

    def _add(self, name: str, value: float, event: Event) -> None:
        if math.isfinite(value):
            self._writer.add_scalar(f"{self._prefix}/{name}", value, event.gd_step)
