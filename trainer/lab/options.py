"""The options that several commands share, spelled once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class KindName(StrEnum):
    """What a table's target is."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK", help="digits, mnist, fashion-mnist, identity, affine, polynomial, formula or csv:FILE."
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id.")]
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
Fraction = Annotated[float, typer.Option("--fraction", help="Share of the training samples to use.")]
Noise = Annotated[float, typer.Option("--label-noise", help="Share of wrong labels, everywhere but in the test part.")]
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
Json = Annotated[Path | None, typer.Option("--json", help="Write what was printed, and more, to this file.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", envvar="GDSOLVER_DATA", help="Folder with mnist/, fashion-mnist/ in their official files."
    ),
]
Run = Annotated[str | None, typer.Option("--run", help="The run that jobs belong to.")]
