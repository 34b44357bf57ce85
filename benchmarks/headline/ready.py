"""Whether the data of an experiment are there, asked before its first run: after an hour of runs it is too late."""

import sys
from collections.abc import Iterable
from pathlib import Path

from trainer.errors import TrainerError
from trainer.lab.tasks import Request, Task, load_task


def loaded(request: Request, seed: int = 0) -> Task:
    """A task's data; ends the program in one line where they are not there."""
    try:
        return load_task(request, seed)
    except (TrainerError, OSError) as error:
        sys.exit(str(error))


def need_tasks(names: Iterable[str], data_dir: Path | None) -> None:
    """End the program in one line unless the data of all these tasks are there."""
    for name in dict.fromkeys(names):
        loaded(Request(name, data_dir=data_dir))
