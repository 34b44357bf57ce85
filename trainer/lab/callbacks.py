"""What else should happen while a run goes on; every hook does nothing by default."""

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from trainer.lab.methods import Method
from trainer.lab.runs import Epoch, Run
from trainer.lab.tasks import Task


class Callback:
    """Hooks into a training run."""

    def on_begin(self, task: Task, method: Method, seed: int, epochs: int) -> None:
        """Called before the first epoch."""

    def on_epoch(self, epoch: Epoch) -> None:
        """Called after each epoch."""

    def on_polish(self) -> None:
        """Called when GD is over and the final weights are tunnelled once more."""

    def on_end(self, run: Run) -> None:
        """Called when the run is over, also when it was interrupted."""


class ProgressBar(Callback):
    """A live bar for the run at hand; use it as a context manager."""

    def __init__(self, console: Console, runs: int = 1) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._all = self._progress.add_task("runs", total=runs) if runs > 1 else None
        self._bar = self._progress.add_task("", total=None)
        self._what = ""

    def on_begin(self, task: Task, method: Method, seed: int, epochs: int) -> None:
        """Show which run it is."""
        self._what = f"{task.name} {method.name} seed {seed}"
        self._progress.reset(self._bar, total=epochs, description=self._what)

    def on_epoch(self, epoch: Epoch) -> None:
        """Advance the bar."""
        mark = " tunnelled" if epoch.adopted else ""
        self._progress.update(self._bar, advance=1, description=f"{self._what}: {epoch.score:.4g}{mark}")

    def on_polish(self) -> None:
        """Say what the wait is for."""
        self._progress.update(self._bar, description=f"{self._what}: last tunnel")

    def on_end(self, run: Run) -> None:
        """Count the run."""
        if self._all is not None:
            self._progress.advance(self._all)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()


@contextlib.contextmanager
def no_progress() -> Iterator[Callback]:
    """A callback that shows nothing."""
    yield Callback()
