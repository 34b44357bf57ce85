"""The command `gdsolver`: train and compare, and speak to a solver pool by hand."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from shared.errors import ContractError
from trainer.errors import PoolRefusedError, PoolUnavailableError, TaskError, TrainerError
from trainer.lab.by_hand import follow, job_spec, read_bytes, row
from trainer.lab.options import (
    ApiKey,
    DataDir,
    Epochs,
    Fanout,
    Fraction,
    Gateway,
    JobId,
    Json,
    KindOption,
    LayerName,
    Local,
    Noise,
    Out,
    Run,
    Sync,
    Target,
    TargetMetric,
    TaskName,
    UntilStalled,
    Workers,
)
from trainer.pool.client import SolverClient
from trainer.pool.embedded import embedded_pool

app = typer.Typer(
    help="Train PyTorch networks with the help of a solver pool.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# A pipe or file has no width of its own: wide enough for the table.
out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, soft_wrap=True, highlight=False)


@app.command()
def train(
    task: TaskName,
    *,
    method: Annotated[
        str, typer.Option("--method", help="hybrid, sgd, sgd-lrs, adam, adam-lrs, lbfgs or restart.")
    ] = "hybrid",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")] = 0,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    local: Local = False,
    workers: Workers = 1,
    target: Target = None,
    kind: KindOption = None,
    fraction: Fraction = 1.0,
    label_noise: Noise = 0.0,
    epochs: Epochs = None,
    target_metric: TargetMetric = None,
    until_stalled: UntilStalled = None,
    layer: LayerName = None,
    sync: Sync = False,
    fanout: Fanout = 1,
    out_dir: Out = None,
    json_file: Json = None,
    data_dir: DataDir = None,
    run: Run = None,
) -> None:
    """Train one model by one method, and say what the solver did for it.

    \b
    Example:
      gdsolver train digits --local
      gdsolver train csv:house.csv --target price --kind regression --gateway http://gateway:8000
    """
    _experiment(
        "train",
        task,
        [method],
        (seed,),
        pool=(gateway, api_key, local, workers),
        request={
            "target": target,
            "kind": kind and kind.value,
            "fraction": fraction,
            "label_noise": label_noise,
            "data_dir": data_dir,
        },
        settings={
            "epochs": epochs,
            "target_metric": target_metric,
            "until_stalled": until_stalled,
            "layer": layer,
            "sync": sync,
            "fanout": fanout,
            "run": run,
        },
        out_dir=out_dir,
        json_file=json_file,
    )


@app.command()
def compare(
    task: TaskName,
    *,
    methods: Annotated[
        str, typer.Option("--methods", help="Separated by commas.")
    ] = "sgd,sgd-lrs,adam,adam-lrs,lbfgs,restart,hybrid",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, from 0.")] = 3,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    local: Local = False,
    workers: Workers = 1,
    target: Target = None,
    kind: KindOption = None,
    fraction: Fraction = 1.0,
    label_noise: Noise = 0.0,
    epochs: Epochs = None,
    target_metric: TargetMetric = None,
    until_stalled: UntilStalled = None,
    layer: LayerName = None,
    sync: Sync = False,
    fanout: Fanout = 1,
    out_dir: Out = None,
    json_file: Json = None,
    data_dir: DataDir = None,
    run: Run = None,
) -> None:
    """Compare plain GD with the hybrid over several seeds: a table, plots, and JSON of everything.

    \b
    Example:
      gdsolver compare digits --local
      gdsolver compare mnist --fraction 0.1 --methods adam,hybrid --seeds 2 --gateway http://gateway:8000
    """
    _experiment(
        "compare",
        task,
        [name.strip() for name in methods.split(",")],
        tuple(range(seeds)),
        pool=(gateway, api_key, local, workers),
        request={
            "target": target,
            "kind": kind and kind.value,
            "fraction": fraction,
            "label_noise": label_noise,
            "data_dir": data_dir,
        },
        settings={
            "epochs": epochs,
            "target_metric": target_metric,
            "until_stalled": until_stalled,
            "layer": layer,
            "sync": sync,
            "fanout": fanout,
            "run": run,
        },
        out_dir=out_dir,
        json_file=json_file,
    )


def _experiment(
    command: str,
    task: str,
    methods: list[str],
    seeds: tuple[int, ...],
    *,
    pool: tuple[str | None, str | None, bool, int],
    request: dict[str, Any],
    settings: dict[str, Any],
    out_dir: Path | None,
    json_file: Path | None,
) -> None:
    """Run and report an experiment."""
    # Loaded here: torch takes seconds, and the other commands do without it.
    from trainer.lab import experiment as lab  # noqa: PLC0415
    from trainer.lab.loop import Settings  # noqa: PLC0415
    from trainer.lab.report import summarise, table  # noqa: PLC0415
    from trainer.lab.tasks import Request  # noqa: PLC0415

    with _clear_words():
        plan = lab.Experiment(Request(task, **request), lab.choose_methods(methods), seeds, Settings(**settings))
        name = lab.check(plan).name
        folder = out_dir or Path("runs") / f"{command}-{name.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
        _make_folder(folder)
        gateway, api_key, local, workers = pool
        with _client(
            gateway, api_key, local=local and plan.needs_pool, workers=workers, folder=folder, needed=plan.needs_pool
        ) as client:
            runs = lab.run_all(plan, client, err)
        options = {"command": command, "task": task, "methods": methods, "seeds": seeds, **request, **settings}
        written = lab.write_down(runs, {key: _plain(value) for key, value in options.items()}, folder, json_file)
        ran = ", ".join(map(str, sorted({run.seed for run in runs})))
        out.print(table(summarise(runs), f"{name}: {runs[0].metric}, seeds {ran}"))
        if command == "train":
            out.print(f"weights sha256 {runs[-1].weights_sha256}")
        out.print(f"written: {', '.join(map(str, written))}")
        lab.conclude(runs, out.print)
        if runs[-1].interrupted:
            raise typer.Exit(130)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A snapshot (gdsolver.snapshot/1, safetensors).")],
    *,
    spec: Annotated[
        Path | None, typer.Option("--spec", help="Job spec as JSON; the options below replace parts of it.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", help="What to minimise; the snapshot's note by default.")
    ] = None,
    radius: Annotated[
        float | None, typer.Option("--radius", help="Half-width of the box; the snapshot's note by default.")
    ] = None,
    l2: Annotated[float | None, typer.Option("--l2", help="Price of squared weights, for log_loss.")] = None,
    delta: Annotated[float | None, typer.Option("--delta", help="Error at which huber turns linear.")] = None,
    quantile: Annotated[float | None, typer.Option("--quantile", help="Which quantile, between 0 and 1.")] = None,
    trim: Annotated[float | None, typer.Option("--trim", help="Share that trimmed_mse or trimmed_mae drops.")] = None,
    time_s: Annotated[float | None, typer.Option("--time", help="Most seconds to solve.")] = None,
    run: Run = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result (always with --local).")] = False,
    result: Annotated[
        Path | None, typer.Option("--result", help="Wait, and write the new weights to this file.")
    ] = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    local: Local = False,
    workers: Workers = 1,
    json_file: Json = None,
) -> None:
    """Post a snapshot and a spec as a job.

    \b
    Example:
      gdsolver submit stall.safetensors --objective ramp --radius 0.1 --time 10 --result better.safetensors --local
    """
    with _clear_words():
        data = read_bytes(file)
        numbers = {"radius": radius, "l2": l2, "delta": delta, "quantile": quantile, "trim": trim}
        wanted = job_spec(data, spec, objective=objective, time_s=time_s, run=run, **numbers)
        _check_folder_of(result)
        with _client(gateway, api_key, local=local, workers=workers, folder=Path("runs"), needed=True) as client:
            assert client is not None
            job = client.solve(data, wanted)
            out.print(job.id)
            if wait or local or result:
                job = follow(client, job.id, result, out=out, err=err)
            _write(json_file, job.model_dump(mode="json"))


@app.command()
def jobs(
    *,
    run: Run = None,
    state: Annotated[
        str | None, typer.Option("--state", help="queued, running, succeeded, failed, cancelled or expired.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most jobs to show.")] = 20,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    local: Local = False,
    json_file: Json = None,
) -> None:
    """List the newest jobs.

    \b
    Example:
      gdsolver jobs --state running --gateway http://gateway:8000
    """
    with _clear_words(), _existing_pool(gateway, api_key, local) as client:
        found = client.jobs(run=run, state=state, limit=limit)
        listing = Table(
            Column("id", no_wrap=True, min_width=32), "state", "run", "objective", "start", "final", "bound"
        )
        for job in found:
            listing.add_row(*row(job))
        out.print(listing if found else "no jobs")
        _write(json_file, {"jobs": [job.model_dump(mode="json") for job in found]})


@app.command()
def watch(
    job_id: JobId,
    *,
    result: Annotated[Path | None, typer.Option("--result", help="Write the new weights to this file.")] = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    local: Local = False,
    json_file: Json = None,
) -> None:
    """Follow a job until it has ended; Ctrl-C leaves the job running.

    \b
    Example:
      gdsolver watch 01a20ac72ceb75967d3b0c8e21f4d9aa --result better.safetensors --gateway http://gateway:8000
    """
    with _clear_words(), _existing_pool(gateway, api_key, local) as client:
        _check_folder_of(result)
        _write(json_file, follow(client, job_id, result, out=out, err=err).model_dump(mode="json"))


@app.command()
def cancel(
    job_id: JobId,
    *,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    local: Local = False,
    json_file: Json = None,
) -> None:
    """Ask for a job to end; a running one keeps its incumbent as the result.

    \b
    Example:
      gdsolver cancel 01a20ac72ceb75967d3b0c8e21f4d9aa --gateway http://gateway:8000
    """
    with _clear_words(), _existing_pool(gateway, api_key, local) as client:
        client.cancel(job_id)
        job = client.job(job_id)
        out.print(f"{job_id} is {job.state}" if job.state.terminal else f"{job_id} is being cancelled")
        _write(json_file, job.model_dump(mode="json"))


# --- what the commands share ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _clear_words() -> Iterator[None]:
    """Turn errors into one clear line: exit code 2 for wrong input, 1 for a failure, 130 for Ctrl-C."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="gdsolver: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        yield
    except (TaskError, ContractError, ValueError) as error:
        raise _exit(2, str(error)) from error
    except PoolRefusedError as error:
        raise _exit(2 if error.status in (404, 422) else 1, str(error)) from error
    except TrainerError as error:
        raise _exit(1, str(error)) from error
    except OSError as error:
        raise _exit(1, str(error)) from error
    except KeyboardInterrupt as error:
        raise _exit(130, "interrupted; nothing was kept here, and a job that was posted goes on") from error


def _exit(code: int, message: str) -> typer.Exit:
    err.print(f"gdsolver: {message}", markup=False)
    return typer.Exit(code)


@contextlib.contextmanager
def _client(
    gateway: str | None, api_key: str | None, *, local: bool, workers: int, folder: Path, needed: bool
) -> Iterator[SolverClient | None]:
    """A client of the pool that the options name, or of one's own; None if no pool is needed and none is named."""
    if local:
        err.print("starting a pool ...")
        with embedded_pool(folder / "pool.log", workers) as url, SolverClient(url) as client:
            yield client
    elif gateway and needed:
        with SolverClient(gateway, api_key) as client:
            if client.ready():
                with contextlib.suppress(PoolUnavailableError):
                    client.jobs(limit=1)  # a key that opens nothing is told now, and not after a training
            else:
                err.print(f"gdsolver: the pool at {gateway} is not ready now", markup=False)
            yield client
    elif needed:
        raise TaskError("name a pool's address, or start one of your own with --local", field="--gateway")
    else:
        yield None


@contextlib.contextmanager
def _existing_pool(gateway: str | None, api_key: str | None, local: bool) -> Iterator[SolverClient]:
    if local:
        raise TaskError(
            "a pool that starts now has no jobs yet; name the one that has them with --gateway", field="--local"
        )
    with _client(gateway, api_key, local=False, workers=1, folder=Path(), needed=True) as client:
        assert client is not None
        yield client


def _make_folder(folder: Path) -> None:
    """Make the folder for what is to be written, before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TaskError(f"{folder} cannot be made: {error.strerror}", field="--out") from error


def _check_folder_of(file: Path | None) -> None:
    if file is not None and not file.parent.is_dir():
        raise TaskError(f"there is no folder {file.parent}", field="--result")


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        from trainer.lab.report import write_json  # noqa: PLC0415

        write_json(path, content)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
