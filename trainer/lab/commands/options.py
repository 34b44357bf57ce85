"""The options that several commands share, spelled once, and a way to take many of them as one argument."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.plain import is_utf8
from trainer.errors import TaskError


class KindName(StrEnum):
    """What a table's target is."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class DecimalMark(StrEnum):
    """What stands before the decimals of a table's numbers."""

    POINT = "."
    COMMA = ","


def in_utf8(text: str | None) -> str | None:
    """An option's text as it is; typer.BadParameter, which names the option, for bytes that are none."""
    if text is not None and not is_utf8(text):
        raise typer.BadParameter(f"{text!a} holds bytes that are no text; write it in UTF-8")
    return text


TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="digits, mnist, fashion-mnist, cifar10, cifar10-paper, adult, california-housing, identity, affine, "
        "polynomial, formula, csv:FILE or uci:NAME.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id, the first or last characters of it, or `last`.")]
Gateway = Annotated[
    str | None,
    typer.Option("--gateway", envvar="GDSOLVER_GATEWAY", help="The pool's address, like http://gateway:8000."),
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="GDSOLVER_API_KEY", help="Key for a pool that asks for one.")
]
Local = Annotated[bool, typer.Option("--local", help="Start a pool of one's own for as long as this takes.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Solver workers of a --local pool.")]
Target = Annotated[str | None, typer.Option("--target", help="csv: the column to predict.")]
KindOption = Annotated[KindName | None, typer.Option("--kind", help="csv: what the target is.")]
Separator = Annotated[
    str | None,
    typer.Option("--separator", help="csv: what is between columns, like ';' or tab; by default what is evident."),
]
Decimal = Annotated[
    DecimalMark | None,
    typer.Option("--decimal", help="csv: the mark before decimals; by default what is evident."),
]
Encoding = Annotated[
    str | None, typer.Option("--encoding", help="csv: like latin-1 or utf-16; by default what is evident.")
]
Drop = Annotated[
    list[str] | None, typer.Option("--drop", metavar="COLUMN", help="csv: leave a column out (may be repeated).")
]
Words = Annotated[
    list[str] | None,
    typer.Option("--words", metavar="COLUMN", help="csv: take a column's numbers as words (may be repeated)."),
]
Weights = Annotated[str | None, typer.Option("--weights", metavar="COLUMN", help="csv: the column of sample weights.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PACKAGE.MODULE:FACTORY",
        help="A function of (inputs, outputs), or of nothing, that returns the model to train.",
    ),
]
Hidden = Annotated[
    str | None, typer.Option("--hidden", metavar="WIDTHS", help="Hidden widths of the task's ReLU network, like 16,8.")
]
Fraction = Annotated[float, typer.Option("--fraction", help="Share of the training samples to use.")]
Noise = Annotated[float, typer.Option("--label-noise", help="Share of wrong labels, everywhere but in the test part.")]
LongTailed = Annotated[
    float | None,
    typer.Option("--long-tailed", metavar="RATIO", help="Thin the classes of the training part out, down to 1/RATIO."),
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Most epochs; the task's own number by default.")]
TargetMetric = Annotated[
    float | None, typer.Option("--target-metric", help="Stop once the selection metric is this good.")
]
UntilStalled = Annotated[
    int | None,
    typer.Option("--until-stalled", min=1, metavar="EPOCHS", help="End a run after so many epochs without a gain."),
]
LayerName = Annotated[
    str | None,
    typer.Option("--layer", help="The layer to tunnel by name, or auto: chosen at every stall; the task's by default."),
]
Sync = Annotated[bool, typer.Option("--sync", help="Wait for each answer, as in the paper, instead of training on.")]
Fanout = Annotated[int, typer.Option("--fanout", min=1, help="Jobs per stall, with different radii and seeds.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for report.json and plots; runs/... by default.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where a run with the same --out was killed or interrupted.")
]
Log = Annotated[
    Path | None,
    typer.Option("--log", metavar="FILE.jsonl", help="Write each stall, job and adoption here as it happens."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write what was printed, and more, to this file.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="GDSOLVER_DATA",
        help="Folder with mnist/, cifar-10-batches-bin/, adult/, uci/ and so on in their official files.",
    ),
]
Run = Annotated[str | None, typer.Option("--run", callback=in_utf8, help="The run that jobs belong to.")]


def widths(text: str | None) -> tuple[int, ...] | None:
    """Numbers separated by commas, as --hidden has them; None for None. Raises TaskError for anything else."""
    if text is None:
        return None
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError as error:
        raise TaskError(f"{text!r} is not a list of widths like 16,8", field="--hidden") from error


def shared_options(options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take the fields of a dataclass as options of its own, and find them in its argument `options`.

    The command line is made from a function's signature, so the signature gets a keyword for each field.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        hints = inspect.get_annotations(options, eval_str=True)
        taken = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in dataclasses.fields(options)
        ]

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            fields = {parameter.name: given.pop(parameter.name) for parameter in taken}
            command(**given, options=options(**fields))

        kept = [parameter for name, parameter in own.parameters.items() if name != "options"]
        wrapper.__signature__ = own.replace(parameters=[*kept, *taken])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*kept, *taken]}
        return wrapper

    return decorate
