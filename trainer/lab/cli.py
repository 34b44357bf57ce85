"""The command `gdsolver`: train and compare, tell what can be tunnelled, and speak to a solver pool by hand."""

import typer

from trainer.lab.commands import explaining, jobs, training

app = typer.Typer(
    help="Train PyTorch networks with the help of a solver pool.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    training.train,
    training.compare,
    explaining.explain,
    jobs.submit,
    jobs.jobs,
    jobs.watch,
    jobs.cancel,
)
for command in COMMANDS:
    app.command()(command)
