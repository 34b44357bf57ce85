"""How a model is called and read: which layers run in which order, and what output and targets say together."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from shared.snapshot import Task
from trainer.errors import CaptureError, DataError, NothingCountsError, PartError
from trainer.model.blocks import Owners, why_not
from trainer.model.live import device_of
from trainer.model.recognise import Precision
from trainer.model.verify import Tolerance, precision_of, tolerance_of
from trainer.model.watch import Call, makers, order_of, rows_at_once, run, scout
from trainer.restoring.modules import modules_of, parameters_of
from trainer.samples.batches import Batch
from trainer.samples.heads import View, views
from trainer.samples.kinds import TargetKind
from trainer.samples.outputs import Candidate, Path, by_rows, candidates, choose, tensor_at
from trainer.samples.positions import Reader
from trainer.samples.reservoir import Rows
from trainer.snapshots.composed import told
from trainer.snapshots.next_labels import Reading, are_sequences, read_labels, rows_to_ask

FEWEST_ROWS = 64
"""Rows that are looked at whatever the budget, and on which layers are moved to see what follows them."""
SMALL_BYTES = 1_000_000
"""Of what any one module puts out: so little may be more rows at once than the loop's own batch, which costs less."""
SCOUTED = 16
"""Rows that are run to see how the model is called."""


@dataclass(frozen=True)
class Plan:
    """What to capture: how targets are to be read, what follows the layer if that is not plain to see, how many samples
    a job has (positions count as samples), and when and to how many directions to project. `asks_groups` is what
    compares groups of samples, if anything does.

    Without `task` it is inferred from outputs and targets, and refused where they may mean two things.
    """

    task: Task | None = None
    tail: tuple[str | nn.Module, ...] | None = None
    samples: int = 1000
    ignore_index: int = -100
    class_weight: tuple[float, ...] | None = None
    project_above: int = 512
    directions: int = 64
    asks_groups: str | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """How the model is called and read; `doubtful` where nothing tells which label is a position's."""

    calls: Sequence[Call]
    reader: Reader
    classes: int
    per_row: float
    eligible: tuple[str, ...]
    precision: Precision
    tolerance: Tolerance
    doubtful: bool = False

    def worth_seeing(self, layers: Collection[str]) -> tuple[list[str], list[str]]:
        """The layers whose inputs and outputs tell what follows some layers: those behind the first of them.

        Of layers before it only what has a width that could be added on a residual path: others may be very wide.
        """
        calls = [call for call in self.calls if call.name in self.eligible]
        first = next((place for place, call in enumerate(calls) if call.name in layers), len(calls))
        before, behind = calls[:first], calls[first:]
        widths = {call.put_out for call in behind}
        inputs = [call for call in before if call.taken_in in widths] + behind
        outputs = [call for call in before if call.put_out in widths] + behind
        return [call.name for call in inputs], [call.name for call in outputs]


def read_scene(model: nn.Module, rows: Rows, plan: Plan) -> Scene:
    """Run a few rows to see how the model is called, and how outputs and targets fit."""
    if any(map(is_lazy, parameters_of(modules_of(model)))):
        raise CaptureError("the model has lazy layers that do not exist yet; run it once before")
    if len(rows) == 0:
        raise DataError("there are no samples to run the model on")
    device = device_of(model)
    numbers, many = next(rows.batches(FEWEST_ROWS, torch.device("cpu")))
    _, batch = next(rows.take(numbers[:SCOUTED]).batches(min(SCOUTED, rows.largest), device))
    with told(model, rows, plan.task, plan.ignore_index, PartError, DataError):
        calls, put_out = scout(model, batch)
        fit = candidates(put_out, many.targets, plan.task, plan.ignore_index, batch.samples)
    path = _path(model, batch, fit, many.targets, plan.ignore_index)
    with told(model, rows, plan.task, plan.ignore_index, DataError):
        output = by_rows(tensor_at(put_out, path), batch.samples)
        found = views(output, many.targets, plan.task, plan.ignore_index, batch.samples)
    view = _best_view(found, calls, output)
    matrix = view.matrix(output)
    _check_class_weight(plan.class_weight, view.task, matrix.shape[1])
    labels = Reading()
    if are_sequences(view, output, batch.targets):
        few = rows_to_ask(batch.targets)
        _, some = next(rows.take(numbers[:few]).batches(min(few, rows.largest), device))
        labels = read_labels(model, batch, output, some, view, plan.ignore_index, path)
    kind = TargetKind(
        None if plan.task else not many.targets.is_floating_point(),
        tuple(many.targets.shape),
        view.axis if many.targets.dim() == output.dim() else None,
    )
    at_once = min(rows.largest, rows_at_once(calls, output, batch.samples))
    small = min(many.samples, rows_at_once(calls, output, batch.samples, SMALL_BYTES))
    if small > at_once and device.type == "cpu" and _runs(model, many):
        at_once = small
    reader = Reader(view, len(matrix) / batch.targets.numel(), plan.ignore_index, labels.shifted, at_once, path, kind)
    counts = [call.name for call in calls]
    eligible = tuple(call.name for call in calls if call.positions == len(matrix) and counts.count(call.name) == 1)
    counting = float(reader.counting(reader.aligned(many.targets)).sum())
    if not counting:
        raise NothingCountsError(f"all targets of these samples are {plan.ignore_index}, which the loss leaves out")
    precision = precision_of(calls, output)
    tolerance = tolerance_of(precision, device)
    per_row = counting / many.samples
    return Scene(calls, reader, matrix.shape[1], per_row, eligible, precision, tolerance, labels.doubtful)


def _path(model: nn.Module, batch: Batch, fit: Sequence[Candidate], targets: Tensor, ignore_index: int) -> Path:
    """Where the scores are in what the model puts out: another pass shows what comes from what, if several fit."""
    if len(fit) == 1:
        return fit[0].path
    found = makers(model, batch, [one.path for one in fit])
    known = [replace(one, made_by=made_by) for one, made_by in zip(fit, found, strict=True)]
    return choose(known, targets, ignore_index)


def _check_class_weight(given: Sequence[float] | None, task: Task, outputs: int) -> None:
    """Raise DataError unless there is one weight a class; other tasks have no classes, which is told elsewhere."""
    classes = {"classification": outputs, "binary": 2}.get(task)
    if given is not None and classes is not None and len(given) != classes:
        raise DataError(f"class_weight has {len(given)} entries for {classes} classes; give one a class")


def _runs(model: nn.Module, batch: Batch) -> bool:
    """Whether the model takes more rows than the loop gives it at once; a buffer may be made for those alone."""
    try:
        run(model, batch)
    except CaptureError:
        return False
    return True


def _best_view(found: Sequence[View], calls: Sequence[Call], output: Tensor) -> View:
    """The way to read the output in which the last fitting layer has as many units and positions, in the same order."""
    for call in reversed(calls):
        fitting = [view for view in found if (call.positions, call.put_out) == tuple(view.matrix(output).shape)]
        alike = [view for view in fitting if call.order is not None and _ordered(view, output, call.order)]
        if fitting:
            return (alike or fitting)[0]
    return found[0]


def _ordered(view: View, output: Tensor, order: Tensor) -> bool:
    return torch.equal(order_of(view.matrix(output)), order)


def unfit(model: nn.Module, name: str, scene: Scene, owners: Owners) -> str | None:
    """Why a layer cannot be a block, whatever follows it."""
    if (why := why_not(model, name, owners)) is not None:
        return why
    calls = [call for call in scene.calls if call.name == name]
    if len(calls) != 1:
        return f"layer {name!r} is used {len(calls)} times in one forward pass; it must be used once"
    module = model.get_submodule(name)
    if calls[0].positions == 0 and not isinstance(module, nn.Linear):
        return (
            f"layer {name!r} is too large: a convolution at many places has as many times its units, which share "
            "weights; only one of size 1, or whose kernel covers its whole input, is a linear layer"
        )
    if name not in scene.eligible:
        return (
            f"layer {name!r} is applied at {calls[0].positions} places of a batch, where the model puts out another "
            "number of results; choose a later layer"
        )
    return None
