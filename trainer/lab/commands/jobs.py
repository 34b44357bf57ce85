"""The commands that speak to a solver pool by hand: submit, jobs, watch, cancel."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from trainer.lab.commands.by_hand import follow, job_spec, read_bytes, row, whole_id
from trainer.lab.commands.options import ApiKey, Gateway, JobId, Json, Local, Run, Workers, in_utf8
from trainer.lab.commands.surroundings import (
    clear_words,
    err,
    existing_pool,
    out,
    pool_client,
    say,
    writable,
    write,
)
from trainer.pool.client import DEFAULT_URL, SolverClient


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
    with clear_words():
        writable(result=result, json=json_file)
        data = read_bytes(file)
        numbers = {"radius": radius, "l2": l2, "delta": delta, "quantile": quantile, "trim": trim}
        wanted = job_spec(data, spec, objective=objective, time_s=time_s, run=run, **numbers)
        with pool_client(
            gateway or (None if local else DEFAULT_URL),
            api_key,
            local=local,
            workers=workers,
            folder=Path("runs"),
            needed=True,
            goes_on=False,
        ) as client:
            assert client is not None
            job = client.solve(data, wanted)
            say(job.id)
            if wait or local or result:
                job = follow(client, job.id, result, out=out, err=err)
            write(json_file, job.model_dump(mode="json"))


def jobs(
    *,
    run: Run = None,
    state: Annotated[
        str | None,
        typer.Option("--state", callback=in_utf8, help="queued, running, succeeded, failed, cancelled or expired."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most jobs to show.")] = 20,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    json_file: Json = None,
) -> None:
    """List the newest jobs.

    \b
    Example:
      gdsolver jobs --state running --gateway http://gateway:8000
    """
    with clear_words(), _pool(gateway, api_key, json=json_file) as client:
        found = client.jobs(run=run, state=state, limit=limit)
        listing = Table(
            Column("id", no_wrap=True, min_width=32), "state", "run", "objective", "start", "final", "bound"
        )
        for job in found:
            listing.add_row(*row(job))
        out.print(listing if found else "no jobs")
        write(json_file, {"jobs": [job.model_dump(mode="json") for job in found]})


def watch(
    job_id: JobId,
    *,
    result: Annotated[Path | None, typer.Option("--result", help="Write the new weights to this file.")] = None,
    log: Annotated[bool, typer.Option("--log", help="Show the solver's own log as well, as it grows.")] = False,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    json_file: Json = None,
) -> None:
    """Follow a job until it has ended; Ctrl-C leaves the job running.

    \b
    Example:
      gdsolver watch last --log --result better.safetensors --gateway http://gateway:8000
    """
    with clear_words(), _pool(gateway, api_key, result=result, json=json_file) as client:
        job = follow(client, whole_id(client, job_id), result, out=out, err=err, log=log)
        write(json_file, job.model_dump(mode="json"))


def cancel(
    job_id: JobId,
    *,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    json_file: Json = None,
) -> None:
    """Ask for a job to end; a running one keeps its incumbent as the result.

    \b
    Example:
      gdsolver cancel last --gateway http://gateway:8000
    """
    with clear_words(), _pool(gateway, api_key, json=json_file) as client:
        whole = whole_id(client, job_id)
        client.cancel(whole)
        job = client.job(whole)
        say(f"{whole} is {job.state}" if job.state.terminal else f"{whole} is being cancelled")
        write(json_file, job.model_dump(mode="json"))


@contextmanager
def _pool(gateway: str | None, api_key: str | None, **written: Path | None) -> Iterator[SolverClient]:
    """A client of a pool that is there already, after a look at where the answer is to be written."""
    writable(**written)
    with existing_pool(gateway, api_key) as client:
        yield client
