"""Tells layer by layer what a tunneller can do for a model, and why it cannot where it cannot."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.model.eligibility import Eligibility
from trainer.snapshots.capture import Look
from trainer.stalls.survey import view

HEADINGS = ("layer", "kind", "units", "dead", "nearly dead", "bytes a sample", "tunnel")


@dataclass(frozen=True)
class LayerReport:
    """One layer; what only samples show is None where none were seen, `why` is None where a tunnel can go through."""

    name: str
    kind: str
    units: int
    dead: int | None
    nearly_dead: int | None
    sample_bytes: int | None
    why: str | None


UNSEEN = "?: not known before the first batch"


@dataclass(frozen=True)
class Explanation:
    """All layers of a model; as text it is a table."""

    layers: tuple[LayerReport, ...]

    def __str__(self) -> str:
        """The table, and one sentence for each layer that cannot be tunnelled."""
        rows = [HEADINGS, *(_row(layer) for layer in self.layers)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"{layer.name}: {layer.why}" for layer in self.layers if layer.why]
        unseen = any(layer.dead is None and layer.why is None for layer in self.layers)
        return "\n".join([*lines, *([UNSEEN] if unseen else [])])


def explain(eligible: Mapping[str, Eligibility], look: Look | None, distrusted: Mapping[str, str]) -> Explanation:
    """Put together what parameters, a pass over samples (if any) and experience say of each layer."""
    return Explanation(tuple(_report(name, found, look, distrusted.get(name)) for name, found in eligible.items()))


def _report(name: str, found: Eligibility, look: Look | None, distrusted: str | None) -> LayerReport:
    captured = look.captured.get(name) if look else None
    seen = view(captured, None, tail_moves=False) if captured else None
    why = found.why or (look.refused.get(name) if look else None) or distrusted
    return LayerReport(
        name=name,
        kind=found.kind,
        units=found.units,
        dead=seen.dead if seen else None,
        nearly_dead=seen.nearly_dead if seen else None,
        sample_bytes=captured.sample_bytes if captured else None,
        why=why,
    )


def _row(layer: LayerReport) -> tuple[str, ...]:
    figures = [layer.units, layer.dead, layer.nearly_dead, layer.sample_bytes]
    shown = ["?" if figure is None else f"{figure:,}" for figure in figures]
    return (layer.name, layer.kind, *shown, "no, see below" if layer.why else "yes")
