"""The command that tells which layers of a model can be tunnelled, and why the others cannot, without any data."""

from typing import Annotated

import typer
from rich.table import Column, Table

from shared.plain import plain
from trainer.lab.commands.options import Json
from trainer.lab.commands.surroundings import clear_words, out, writable, write


def explain(
    factory: Annotated[
        str,
        typer.Argument(metavar="MODULE:FACTORY", help="A function that returns a model, or (model, optimizer)."),
    ],
    *,
    inputs: Annotated[
        int | None, typer.Option("--inputs", min=1, help="With --outputs: call the function with both numbers.")
    ] = None,
    outputs: Annotated[int | None, typer.Option("--outputs", min=1, help="See --inputs.")] = None,
    json_file: Json = None,
) -> None:
    """Show every layer of a model: its kind and size, whether it can be tunnelled, and why not.

    Without an optimizer, every parameter counts as held by one.

    \b
    Example:
      gdsolver explain package.module:factory
    """
    with clear_words():
        writable(json=json_file)
        # Loaded here: torch takes seconds, and the other commands do without it.
        from trainer.lab.layers import survey  # noqa: PLC0415

        layers = survey(factory, inputs, outputs)
        table = Table("layer", "kind", "units", "inputs", "tunnel?", Column("why not", overflow="fold"))
        for layer in layers:
            sizes = (str(size) if size else "" for size in (layer.units, layer.inputs))
            cells = (layer.name or "(model)", layer.kind, *sizes, "no" if layer.why else "yes", layer.why or "")
            table.add_row(*map(plain, cells))
        out.print(table)
        can = sum(layer.why is None for layer in layers)
        out.print(f"{can} of {len(layers)} layers can be tunnelled")
        write(json_file, {"layers": [vars(layer) for layer in layers]})
