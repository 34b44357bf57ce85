"""A run's state on disk, written as it goes, so that a run that was killed goes on where it was."""

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trainer.errors import TaskError
from trainer.lab import trees
from trainer.lab.tasks import Task

FORMAT = "gdsolver.checkpoint/1"
NAME = "checkpoint.safetensors"
PAUSE_S = 0.5
"""Between two writes: where an epoch takes milliseconds, a write after each would take most of the time."""

State = dict[str, Any]


@dataclass
class Checkpoint:
    """One file that is replaced in one step; `about` says which run it is of, and has to be the same at a resume."""

    path: Path
    about: Mapping[str, Any]
    _written: float = field(default=float("-inf"), init=False)

    def load(self) -> State | None:
        """The state that was written last, or None if there is none; TaskError for another run's, or no checkpoint."""
        if not self.path.exists():
            return None
        try:
            content = trees.load(self.path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise TaskError(f"{self.path} cannot be read: {error}", field="--resume") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise TaskError(f"{self.path} is no checkpoint of this version", field="--resume")
        for name, wanted in self.about.items():
            if (found := content["about"].get(name)) != wanted:
                raise TaskError(
                    f"{self.path} is of another run: its {name} is {found!r}, not {wanted!r}", field="--resume"
                )
        state: State = content["state"]
        return state

    @property
    def due(self) -> bool:
        """Whether it is time for another write."""
        return time.monotonic() - self._written >= PAUSE_S

    def write(self, state: State) -> None:
        """Replace what was written last; whoever is killed in between leaves the older state."""
        self._written = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.part")
        trees.save(partial, {"format": FORMAT, "about": dict(self.about), "state": state})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self.path)


def digest(task: Task) -> str:
    """SHA-256 of the training data: other columns, noise, fractions or seeds make another run."""
    found = hashlib.sha256()
    for tensor in task.train.tensors:
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()
