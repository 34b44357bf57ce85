"""Writes a tunneller's events to a JSON Lines file: `Tunneller(..., on_event=JsonLines("events.jsonl"))`."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.events import Event


class JsonLines:
    """A listener for `on_event`; every line is in the file as soon as its event has happened.

    `about` is put into every line before the event's own fields. Fields without a value are left out, infinities and
    NaN become null.
    """

    def __init__(self, path: str | Path, *, append: bool = False, about: Mapping[str, Any] | None = None) -> None:
        self.path, self.about = Path(path), dict(about or {})
        if not append:
            self.path.write_text("")

    def __call__(self, event: Event) -> None:
        """Write one event."""
        fields = {name: value for name, value in dataclasses.asdict(event).items() if value is not None}
        line = json.dumps(self.about | {name: _finite(value) for name, value in fields.items()}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:  # opened anew each time: nobody has to close it
            file.write(f"{line}\n")


def _finite(value: Any) -> Any:
    if isinstance(value, str | int | bool):
        return value
    return float(value) if math.isfinite(value) else None
