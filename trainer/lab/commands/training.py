"""The commands that train: one run of one method, or a comparison of methods over seeds."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.plain import plain
from trainer.errors import TaskError
from trainer.lab.commands import options as given
from trainer.lab.commands.options import shared_options
from trainer.lab.commands.surroundings import clear_words, err, folder_to_fill, out, pool_client, say, writable

COMPARED, OF_SMALL = "sgd,sgd-lrs,adam,adam-lrs,lbfgs,restart,hybrid", "hybrid-lbfgs"
"""What is compared unless methods are named, and what joins in where a network is small."""


@dataclass(frozen=True)
class Options:
    """The options of both commands, in the order in which --help lists them."""

    gateway: given.Gateway = None
    api_key: given.ApiKey = None
    local: given.Local = False
    workers: given.Workers = 1
    target: given.Target = None
    kind: given.KindOption = None
    separator: given.Separator = None
    decimal: given.Decimal = None
    encoding: given.Encoding = None
    drop: given.Drop = None
    words: given.Words = None
    weights: given.Weights = None
    model: given.Model = None
    hidden: given.Hidden = None
    fraction: given.Fraction = 1.0
    label_noise: given.Noise = 0.0
    long_tailed: given.LongTailed = None
    epochs: given.Epochs = None
    target_metric: given.TargetMetric = None
    until_stalled: given.UntilStalled = None
    layer: given.LayerName = None
    sync: given.Sync = False
    fanout: given.Fanout = 1
    out_dir: given.Out = None
    log: given.Log = None
    json_file: given.Json = None
    data_dir: given.DataDir = None
    run: given.Run = None


@shared_options(Options)
def train(
    task: given.TaskName,
    *,
    method: Annotated[
        str, typer.Option("--method", help="One that docs/trainer/command-line.md lists: hybrid, sgd, adam, lbfgs, ...")
    ] = "hybrid",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")] = 0,
    resume: given.Resume = False,
    options: Options,
) -> None:
    """Train one model by one method, and say what the solver did for it.

    The run's state is kept in the --out folder: should it be killed, the same command with --resume goes on.

    \b
    Example:
      gdsolver train digits --local
      gdsolver train csv:house.csv --target price --kind regression --gateway http://gateway:8000
    """
    _experiment("train", task, [method], (seed,), options, resume=resume)


@shared_options(Options)
def compare(
    task: given.TaskName,
    *,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help=f"Separated by commas. [default: {COMPARED}; {OF_SMALL} for small networks]"),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, from 0.")] = 3,
    options: Options,
) -> None:
    """Compare plain GD with the hybrid over several seeds: a table, plots, and JSON of everything.

    \b
    Example:
      gdsolver compare digits --local
      gdsolver compare mnist --fraction 0.1 --methods adam,hybrid --seeds 2 --gateway http://gateway:8000
      gdsolver compare csv:wine.csv --target quality --kind regression --hidden 16,8 --local
      gdsolver compare csv:wine.csv --target quality --kind regression --model package.module:factory --local
    """
    names = None if methods is None else [name.strip() for name in methods.split(",")]
    _experiment("compare", task, names, tuple(range(seeds)), options)


def _experiment(
    command: str,
    task: str,
    methods: list[str] | None,
    seeds: tuple[int, ...],
    options: Options,
    *,
    resume: bool = False,
) -> None:
    """Run and report an experiment; without methods, of those that suit the task."""
    # Loaded here: torch takes seconds, and the other commands do without it.
    from trainer.lab import experiment as lab  # noqa: PLC0415
    from trainer.lab.report import summarise, table  # noqa: PLC0415

    with clear_words(), contextlib.ExitStack() as stack:
        writable(json=options.json_file, log=options.log)
        if options.out_dir is not None:
            stack.enter_context(folder_to_fill(options.out_dir))
        if resume and options.out_dir is None:
            raise TaskError("name the folder of the run that is to go on with --out", field="--resume")
        names = methods or COMPARED.split(",")
        plan = lab.Experiment(_request(task, options), lab.choose_methods(names), seeds, _settings(options))
        loaded = lab.check(plan)
        if methods is None and lab.goes_whole(loaded):
            names = [*names, OF_SMALL]
            plan = dataclasses.replace(plan, methods=lab.choose_methods(names))
        name = loaded.name
        folder = (
            options.out_dir or Path("runs") / f"{command}-{name.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        stack.enter_context(folder_to_fill(folder))
        if command == "train":
            plan = plan.kept_in(folder, resume=resume)
        with pool_client(
            options.gateway,
            options.api_key,
            local=options.local and plan.needs_pool,
            workers=options.workers,
            folder=folder,
            needed=plan.needs_pool,
        ) as client:
            runs = lab.run_all(plan, client, err, log=options.log)
        told = {"command": command, "task": task, "methods": names, "seeds": list(seeds), **_told(options)}
        written = lab.write_down(runs, told, folder, options.json_file)
        ran = ", ".join(map(str, sorted({run.seed for run in runs})))
        out.print(table(summarise(runs), plain(f"{name}: {runs[0].metric}, seeds {ran}")))
        if command == "train":
            say(f"weights sha256 {runs[-1].weights_sha256}")
        say(f"written: {', '.join(map(str, written))}")
        lab.conclude(runs, say)
        if runs[-1].interrupted:
            raise typer.Exit(130)


def _request(task: str, options: Options) -> Any:
    """Which task the options ask for (a trainer.lab.tasks.Request)."""
    from trainer.lab.tasks import Reading, Request  # noqa: PLC0415

    return Request(
        task,
        target=options.target,
        kind=None if options.kind is None else options.kind.value,
        fraction=options.fraction,
        label_noise=options.label_noise,
        long_tailed=options.long_tailed,
        data_dir=options.data_dir,
        reading=Reading(
            separator=options.separator,
            decimal=None if options.decimal is None else options.decimal.value,
            encoding=options.encoding,
            drop=tuple(options.drop or ()),
            words=tuple(options.words or ()),
            weights=options.weights,
        ),
        model=options.model,
        hidden=given.widths(options.hidden),
    )


def _settings(options: Options) -> Any:
    """How the options say to run (a trainer.lab.loop.Settings)."""
    from trainer.lab.loop import Settings  # noqa: PLC0415

    return Settings(
        epochs=options.epochs,
        target_metric=options.target_metric,
        until_stalled=options.until_stalled,
        layer=options.layer,
        sync=options.sync,
        fanout=options.fanout,
        run=options.run,
    )


def _told(options: Options) -> dict[str, Any]:
    """The options as they go into the report: not the pool's address or key, nor where the report itself goes."""
    left_out = {"gateway", "api_key", "local", "workers", "out_dir", "json_file", "log"}
    told = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in told.items() if name not in left_out}
