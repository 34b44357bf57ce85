"""The command `gdsolver`: train and compare, tell what can be tunnelled, and speak to a solver pool by hand."""

import importlib.metadata
from typing import Annotated

import typer

from trainer.lab.commands import demonstration, explaining, jobs, training

app = typer.Typer(
    help="Train PyTorch networks with the help of a solver pool.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    demonstration.demo,
    training.train,
    training.compare,
    explaining.explain,
    jobs.submit,
    jobs.jobs,
    jobs.watch,
    jobs.cancel,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gdsolver {importlib.metadata.version('gdsolver')}")
        raise typer.Exit


@app.callback()
def _all(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Say which version this is.")
    ] = False,
) -> None:
    """Train PyTorch networks with the help of a solver pool."""


for command in COMMANDS:
    app.command()(command)
