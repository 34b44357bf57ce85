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

    `about` is put into every line before the event's own fields; ValueError where it is nothing that JSON has. Fields
    without a value are left out, infinities and NaN become null.
    """

    def __init__(self, path: str | Path, *, append: bool = False, about: Mapping[str, Any] | None = None) -> None:
        self.path, self.about = Path(path), _as_json(about or {})
        if not append:
            self.path.write_text("")

    def __call__(self, event: Event) -> None:
        """Write one event."""
        fields = {name: value for name, value in dataclasses.asdict(event).items() if value is not None}
        line = json.dumps(self.about | {name: _finite(value) for name, value in fields.items()}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:  # opened anew each time: nobody has to close it
            file.write(f"{line}\n")


def _as_json(about: Mapping[str, Any]) -> dict[str, Any]:
    """It with numbers of numpy and torch as plain ones; ValueError, naming it, for what cannot be written."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(about), default=lambda value: value.item(), allow_nan=False))
    except Exception as error:  # an object of somebody's own may raise anything when it is asked for its number
        raise ValueError(
            f"about is {about!r:.200}, which a line of JSON cannot hold ({type(error).__name__}: {error}); use names "
            "with text, finite numbers, lists or mappings of these"
        ) from error
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, str | int | bool):
        return value
    return float(value) if math.isfinite(value) else None
