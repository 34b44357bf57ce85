"""Runs methods over seeds for the command line, and writes down what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from trainer.errors import TaskError
from trainer.lab.callbacks import All, EventLog, ProgressBar
from trainer.lab.checkpoint import NAME
from trainer.lab.loop import Settings, train
from trainer.lab.methods import METHODS, Method, make_optimizer
from trainer.lab.plots import draw_all
from trainer.lab.report import document, write_json
from trainer.lab.runs import Run
from trainer.lab.tasks import Defaults, Request, Task, load_task
from trainer.model.blocks import find_layer
from trainer.model.whole_network import MOST_WEIGHTS
from trainer.pool.client import SolverClient
from trainer.stalls.policy import AUTO


@dataclass(frozen=True)
class Experiment:
    """Which methods to run on which task, with which seeds."""

    request: Request
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    settings: Settings

    @property
    def needs_pool(self) -> bool:
        """Whether any of the methods tunnels."""
        return any(method.tunnels for method in self.methods)

    def kept_in(self, folder: Path, *, resume: bool) -> "Experiment":
        """The same with its state kept in a file there; with `resume` it begins where that ends."""
        return replace(self, settings=replace(self.settings, checkpoint=folder / NAME, resume=resume))


def choose_methods(names: Sequence[str]) -> tuple[Method, ...]:
    """Methods by name, in the order given; TaskError names a wrong one and those there are."""
    for name in names:
        if name not in METHODS:
            raise TaskError(f"there is no method {name!r}; choose from {', '.join(METHODS)}", field="--methods")
    return tuple(METHODS[name] for name in dict.fromkeys(names))


def check(experiment: Experiment) -> Task:
    """Load the first seed's task, so that a mistake is reported before anything is started. Raises TrainerError."""
    epochs = experiment.settings.epochs
    if epochs is not None and epochs < 1:
        raise TaskError(f"{epochs} is too few; use 1 or more", field="--epochs")
    task = load_task(experiment.request, experiment.seeds[0])
    layer = experiment.settings.layer
    if layer is not None and layer != AUTO:
        find_layer(task.model(), layer)
    return task


def goes_whole(task: Task) -> bool:
    """Whether a task's network is so small that tunnels move all of it."""
    return sum(each.numel() for each in task.model().parameters()) <= MOST_WEIGHTS


def run_all(
    experiment: Experiment, client: SolverClient | None, console: Console, log: Path | None = None
) -> list[Run]:
    """Run every method with every seed; an interrupted run is the last one. `log` receives every event at once."""
    torch.set_num_threads(1)
    warm_up()
    runs: list[Run] = []
    logs = [EventLog(log, append=experiment.settings.resume)] if log else []
    with ProgressBar(console, runs=len(experiment.seeds) * len(experiment.methods)) as bar:
        callback = All(bar, *logs)
        for seed in experiment.seeds:
            task = load_task(experiment.request, seed)
            for method in experiment.methods:
                run = train(
                    task, method, seed=seed, settings=experiment.settings, callback=callback, client=client
                )  # fmt: skip
                runs.append(run)
                if run.interrupted:
                    return runs
    return sorted(runs, key=lambda run: [method.name for method in experiment.methods].index(run.method))


def warm_up() -> None:
    """Have torch load what it loads at the first optimizer step, so that the first method is not charged for it."""
    layer = torch.nn.Linear(1, 1)
    for name in ("sgd", "adam"):
        optimizer = make_optimizer(METHODS[name], layer, Defaults())
        layer(torch.ones(1, 1)).sum().backward()
        optimizer.step()


def write_down(runs: Sequence[Run], command: dict[str, Any], out: Path, json_file: Path | None) -> list[Path]:
    """Write report.json and the plots to `out`, and the same JSON to `json_file` if there is one."""
    content = document(runs, command)
    files = [out / "report.json", *([json_file] if json_file else [])]
    for file in files:
        write_json(file, content)
    return [*files, *draw_all(runs, out)]


Announce = Callable[[str], None]


def conclude(runs: Sequence[Run], announce: Announce) -> None:
    """Say in words what the table does not: adoptions, targets, interruption, a lost pool."""
    for run in runs:
        if run.summary is not None:
            announce(_adoptions(run))
        if run.resumed_after:
            announce(f"{run.method} seed {run.seed}: resumed after epoch {run.resumed_after}")
    if runs[-1].interrupted:
        announce(f"interrupted: {len(runs)} run(s) so far are kept, the last one up to its best epoch")
    if any(run.pool_lost for run in runs):
        announce("the pool was lost")


def _adoptions(run: Run) -> str:
    if not run.adopted:
        return f"{run.method} seed {run.seed}: no tunnel was adopted; this is plain GD's own result"
    ways = [f"{event.way} {event.before:.4g} -> {event.after:.4g}" for event in run.events if event.kind == "adopted"]
    where = f"{run.metric} on validation{', in the last tunnel on selection, too' if run.polished else ''}"
    words = f"{run.method} seed {run.seed}: {run.adopted} adopted ({'; '.join(ways)}, {where})"
    return words if run.reported_after_adoption else f"{words}; the reported epoch lies before them"
