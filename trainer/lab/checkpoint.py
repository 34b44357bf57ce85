"""A run's state on disk, written as it goes, so that a run that was killed goes on where it was."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from trainer.errors import TaskError
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
            content = _read(self.path)
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise TaskError(f"{self.path} cannot be read as a checkpoint: {error}", field="--resume") from error
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
        with partial.open("wb") as file:
            file.write(_bytes({"about": dict(self.about), "state": state}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)


def digest(task: Task) -> str:
    """SHA-256 of the training data: other columns, noise, fractions or seeds make another run."""
    found = hashlib.sha256()
    for tensor in task.train.tensors:
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def _bytes(content: State) -> bytes:
    """Tensors as safetensors, all else as JSON in its header: nothing that is read can be run, as with pickle."""
    tensors: dict[str, Tensor] = {}
    told = json.dumps(_take_out(content, tensors))
    return safetensors.torch.save(tensors, metadata={"format": FORMAT, "content": told})


def _read(path: Path) -> State:
    with safetensors.safe_open(str(path), framework="pt") as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
        content = _put_back(json.loads(header["content"]), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    if not isinstance(content, dict):
        raise TypeError("it holds no state")
    return content


def _take_out(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for a nested value: tensors go to `tensors`; dicts become pairs, because an optimizer's keys are numbers."""
    match value:
        case Tensor():
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().clone().contiguous()
            return {"tensor": name}
        case Mapping():
            return {"pairs": [[key, _take_out(part, tensors)] for key, part in value.items()]}
        case list() | tuple():
            return [_take_out(part, tensors) for part in value]
    return value


def _put_back(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"pairs": pairs}:
            return {key: _put_back(part, tensors) for key, part in pairs}
        case list():
            return [_put_back(part, tensors) for part in value]
    return value
