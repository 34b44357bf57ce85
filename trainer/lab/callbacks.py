"""What else should happen while a run goes on; every hook does nothing by default."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from trainer.adapters.jsonl import JsonLines
from trainer.events import Event
from trainer.lab.methods import Method
from trainer.lab.runs import Epoch, Run
from trainer.lab.tasks import Task


class Callback:
    """Hooks into a training run."""

    def on_begin(self, task: Task, method: Method, seed: int, epochs: int) -> None:
        """Called before the first epoch."""

    def on_epoch(self, epoch: Epoch) -> None:
        """Called after each epoch."""

    def on_event(self, event: Event) -> None:
        """Called when a tunneller's event happens, also on its background thread."""

    def on_polish(self) -> None:
        """Called when GD is over and the final weights are tunnelled once more."""

    def on_end(self, run: Run) -> None:
        """Called when the run is over, also when it was interrupted."""


class All(Callback):
    """Several callbacks, each in its turn."""

    def __init__(self, *callbacks: Callback) -> None:
        self._callbacks = callbacks

    def on_begin(self, task: Task, method: Method, seed: int, epochs: int) -> None:
        """Pass it on."""
        for callback in self._callbacks:
            callback.on_begin(task, method, seed, epochs)

    def on_epoch(self, epoch: Epoch) -> None:
        """Pass it on."""
        for callback in self._callbacks:
            callback.on_epoch(epoch)

    def on_event(self, event: Event) -> None:
        """Pass it on."""
        for callback in self._callbacks:
            callback.on_event(event)

    def on_polish(self) -> None:
        """Pass it on."""
        for callback in self._callbacks:
            callback.on_polish()

    def on_end(self, run: Run) -> None:
        """Pass it on."""
        for callback in self._callbacks:
            callback.on_end(run)


class EventLog(Callback):
    """Writes every event of every run to a file as it happens: which run it is of, and the event's own fields."""

    def __init__(self, path: Path, *, append: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write = JsonLines(path, append=append)

    def on_begin(self, task: Task, method: Method, seed: int, epochs: int) -> None:
        """Remember which run it is."""
        self._write.about = {"task": task.name, "method": method.name, "seed": seed}

    def on_event(self, event: Event) -> None:
        """Write a line."""
        self._write(event)


class ProgressBar(Callback):
    """A live bar for the run at hand; use it as a context manager."""

    def __init__(self, console: Console, runs: int = 1) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
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
