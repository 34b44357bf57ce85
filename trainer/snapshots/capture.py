"""Looks at the layers of the live model in one short pass at a stall, and hands them on as arrays."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import SnapshotError
from shared.snapshot import FloatArray, IntArray, Task
from trainer.errors import CaptureError, DataError, NothingCountsError, PartError
from trainer.model.blocks import Block, Owners, owners_of
from trainer.model.folding import fold, recorded_for, unlink, with_offsets
from trainer.model.live import live
from trainer.model.verify import Examiner, explains, not_finite
from trainer.model.watch import Recording, Watcher
from trainer.restoring.modules import parameter_named
from trainer.samples.batches import GROUPS_BY
from trainer.samples.forms import take_apart
from trainer.samples.heads import wire_targets
from trainer.samples.positions import BATCH, at_random
from trainer.samples.reservoir import Rows
from trainer.snapshots.assembly import as_snapshot, choose, subset
from trainer.snapshots.captured import Captured, Origin
from trainer.snapshots.composed import told
from trainer.snapshots.parcel import Parcel
from trainer.snapshots.scene import FEWEST_ROWS, Plan, Scene, read_scene, unfit
from trainer.snapshots.trial import Trial, try_out

__all__ = ["Captured", "Look", "Parcel", "Plan", "Trial", "look", "try_out"]

FEW_POSITIONS = 256
"""Positions of those rows that are compared."""
POOL_FACTOR = 4
"""A snapshot's samples are chosen among this many times as many."""
MOST_ENTRIES = 16_000_000
"""Of any recorded matrix: positions x units."""
EXAMINING, TRIES = 0.6, 3
"""The share of the budget after which no further layer is examined, once one is understood or so many were not."""
NOT_FINITE = "the samples hold NaN or infinity, and so does what the model puts out; leave such samples out in `split`"
OF_CLASSES: tuple[Task, ...] = ("classification", "binary")
"""Tasks whose targets are one class each."""
RESTLESS = (
    "the model puts out other values each time, even in evaluation mode: there is dropout or noise that never stops, "
    "or a state that goes from batch to batch; have it stop in eval()"
)


@dataclass(frozen=True, eq=False)
class Look:
    """What a look at the model gave: the layers that can be tunnelled, as they are called, and why others cannot.

    `seconds` it took in all; `samples` are the positions that were seen; `left_out` are rows that hold NaN or infinity;
    `doubtful` where nothing tells which label of a sequence is a position's, not even what the model fits.
    """

    seconds: float
    samples: int
    captured: Mapping[str, Captured]
    refused: Mapping[str, str]
    left_out: int = 0
    doubtful: bool = False


def look(
    model: nn.Module,
    rows: Rows,
    plan: Plan,
    *,
    layers: Sequence[str],
    radius_of: Callable[[str, float], float],
    budget_s: float,
    generator: np.random.Generator,
    movable: Collection[str] | None = None,
    known: Mapping[str, Block] | None = None,
) -> Look:
    """Look at layers of the live model: one pass over as many rows as the budget allows (at least 64, or all).

    Before it each layer is moved on a few rows, by `radius_of(name, weight_size)` among others, to see whether what
    follows it is what it seems; the last layers come first. `known` chains, from an earlier look, only have to explain
    the model as it is now. `movable` names the layers that may move behind a block (None: all). Modes, random state,
    gradients, parameters and buffers are as before. Layers that there was no time for are refused, too.

    Raises CaptureError or DataError where the model cannot be run on the rows or targets do not fit.
    """
    begun = time.perf_counter()
    if len(rows) == 0:
        raise DataError("no batch has been observed yet; there is nothing to look at")

    def left() -> float:
        return budget_s - (time.perf_counter() - begun)

    with live(model) as inner, told(inner, rows, plan.task, plan.ignore_index, PartError):
        scene = read_scene(inner, rows, plan)
        owners = owners_of(inner)
        refused = {name: why for name in layers if (why := unfit(inner, name, scene, owners)) is not None}
        fit = [call.name for call in scene.calls if call.name in layers and call.name not in refused]
        watcher = Watcher(inner, scene.reader)
        examiner = _examiner(inner, watcher, scene, rows, fit, radius_of, generator, owners, movable)
        blocks: dict[str, Block] = {}
        for number, name in enumerate(reversed(fit)):
            if (blocks or number >= TRIES) and left() < (1.0 - EXAMINING) * budget_s:
                refused[name] = f"layer {name!r} was not looked at: the budget of {budget_s:.3g} s was used up"
                continue
            try:
                blocks[name] = _examined(examiner, name, plan, (known or {}).get(name))
            except CaptureError as error:
                refused[name] = str(error)
        if not blocks:
            if fit and examiner.restless():
                refused |= dict.fromkeys(fit, RESTLESS)
            return Look(time.perf_counter() - begun, len(examiner.base.row), {}, refused)
        dear = sum(examiner.costs[name] for name in blocks)
        seen = _record(watcher, rows, list(blocks.values()), scene, plan, examiner.base, left(), dear, generator)
        broken = _broken(seen, rows)
        seen = _without(seen, broken)
        captured = _captured(inner, blocks, seen, rows, scene, plan, refused, generator)
    found = {name: captured[name] for name in fit if name in captured}
    return Look(time.perf_counter() - begun, len(seen.row), found, refused, len(broken), scene.doubtful)


def called(model: nn.Module, rows: Rows, plan: Plan, layers: Collection[str]) -> tuple[str, ...]:
    """Those of the layers that a forward pass calls, in its order: a module may define them in another one.

    Raises as `look` does.
    """
    with live(model) as inner:
        return tuple(call.name for call in read_scene(inner, rows, plan).calls if call.name in layers)


def _examiner(
    model: nn.Module,
    watcher: Watcher,
    scene: Scene,
    rows: Rows,
    layers: Collection[str],
    radius_of: Callable[[str, float], float],
    generator: np.random.Generator,
    owners: Owners,
    movable: Collection[str] | None,
) -> Examiner:
    """What is needed to examine layers, with a first pass over a few rows: fewer where each has many positions."""
    enough = math.ceil(FEW_POSITIONS / max(1.0, scene.per_row))
    some = rows.take(range(min(len(rows), FEWEST_ROWS, max(FEWEST_ROWS // 8, enough)))).together()
    share = FEW_POSITIONS / max(1.0, scene.per_row * len(some))
    inputs, outputs = scene.worth_seeing(layers)

    def passed(some: Rows) -> Recording:
        return watcher.run(some, at_random(share, generator), inputs=inputs, outputs=outputs)

    base = passed(some)
    if len(broken := _broken(base, some)):
        some = some.take(np.setdiff1d(np.arange(len(some)), broken))
        if not len(some):
            raise CaptureError(NOT_FINITE)
        base = passed(some)
    return Examiner(
        model=model,
        watcher=watcher,
        calls=scene.calls,
        task=scene.reader.view.task,
        precision=scene.precision,
        tolerance=scene.tolerance,
        rows=some,
        base=base,
        radius_of=radius_of,
        generator=generator,
        owners=owners,
        movable=movable,
    )


def _examined(examiner: Examiner, name: str, plan: Plan, known: Block | None) -> Block:
    """The chain behind a layer: the one that is known, if it still holds, or what is found."""
    if known is not None and plan.tail is None and examiner.confirm(known):
        return known
    return examiner.examine(name, plan.tail)


def _record(
    watcher: Watcher,
    rows: Rows,
    blocks: Sequence[Block],
    scene: Scene,
    plan: Plan,
    base: Recording,
    left_s: float,
    position_s: float,
    generator: np.random.Generator,
) -> Recording:
    """The pass over as many rows as there is time for: half of what is left, as comparing takes its time as well."""
    inputs, outputs = set[str](), set[str]()
    for block in blocks:
        taken_in, put_out = recorded_for(block)
        inputs, outputs = inputs | taken_in, outputs | put_out
    per_s = base.rows / max(base.seconds, 1e-9)
    count = int(min(len(rows), max(FEWEST_ROWS, 0.5 * left_s * per_s)))
    widths = [call.taken_in for call in scene.calls if call.name in inputs] + [scene.classes]
    affordable = max(FEWEST_ROWS, 0.4 * left_s / max(position_s, 1e-9))
    most = min(POOL_FACTOR * plan.samples, MOST_ENTRIES // max(widths), affordable)
    share = max(1, most) / max(1.0, scene.per_row * count)
    return watcher.run(
        rows.take(range(count)),
        at_random(share, generator),
        inputs=sorted(inputs),
        outputs=sorted(outputs),
        until=lambda done, seconds: done >= FEWEST_ROWS and seconds > left_s,
    )


def _broken(seen: Recording, rows: Rows) -> NDArray[np.int64]:
    """The rows that hold NaN or infinity, and of which the model makes some: not those where it makes it by itself."""
    odd = np.unique(seen.row[~np.isfinite(seen.output).all(axis=1)])
    found = [np.empty(0, np.int64)]
    for numbers, batch in rows.take(odd).batches(BATCH, torch.device("cpu")) if len(odd) else ():
        leaves, _ = take_apart(replace(batch, targets=torch.empty(0), weights=None, groups=None))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and len(leaf)]
        finite = [torch.isfinite(leaf).reshape(len(leaf), -1).all(dim=1) for leaf in tensors]
        found.append(odd[numbers[~torch.stack(finite).all(dim=0).numpy()]])
    return np.concatenate(found)


def _without(seen: Recording, broken: NDArray[np.int64]) -> Recording:
    """What was seen of all other rows."""
    if not len(broken):
        return seen
    kept = ~np.isin(seen.row, broken)
    if not kept.any():
        raise CaptureError(NOT_FINITE)
    at = torch.from_numpy(np.flatnonzero(kept))
    return replace(
        seen,
        row=seen.row[kept],
        place=seen.place[kept],
        taken_in={name: values[kept] for name, values in seen.taken_in.items()},
        put_out={name: values[kept] for name, values in seen.put_out.items()},
        output=seen.output[kept],
        targets=seen.targets[at],
        weights=None if seen.weights is None else seen.weights[at],
        groups=None if seen.groups is None else seen.groups[at],
    )


def _captured(
    model: nn.Module,
    blocks: Mapping[str, Block],
    seen: Recording,
    rows: Rows,
    scene: Scene,
    plan: Plan,
    refused: dict[str, str],
    generator: np.random.Generator,
) -> dict[str, Captured]:
    """The layers whose chain explains all that was seen; the others are added to `refused`."""
    view = scene.reader.view
    targets = wire_targets(view, seen.targets, scene.classes)
    weights = _weights(seen, targets, plan, view.task)
    groups = None if seen.groups is None else seen.groups.numpy()
    if groups is None and plan.asks_groups is not None:
        raise DataError(f"{plan.asks_groups} compares groups of samples, and these batches have none; {GROUPS_BY}")
    found = {}
    for name, block in blocks.items():
        layers = with_offsets(fold(model, block), block, seen)
        if not explains(block, layers, seen, scene.tolerance):
            understood = f"what follows layer {name!r} was understood on a few samples, but not on all"
            finite = bool(np.isfinite(seen.output).all())
            refused[name] = f"{understood}; choose a later layer" if finite else not_finite(name)
            continue
        try:
            whole = as_snapshot(
                layers,
                task=view.task,
                inputs=seen.taken_in[name],
                targets=targets,
                sample_weight=weights,
                group=groups,
            )
        except SnapshotError as error:
            refused[name] = f"layer {name!r}: {error}"
            continue
        live_scores = unlink(block.link, seen.output.astype(np.float64)).astype(np.float32)
        wide = not block.tail and layers[0].scale is None and whole.inputs.shape[1] > plan.project_above
        chosen, undone = choose(whole, live_scores, plan.samples, generator)
        found[name] = Captured(
            block=block,
            snapshot=subset(whole, chosen, undone),
            whole=whole,
            scores=live_scores,
            origin=Origin(rows, seen.row, seen.place),
            chosen=chosen,
            reader=scene.reader,
            precision=scene.precision,
            shapes=_shapes(model, block),
            directions=plan.directions if wide else None,
            own=None if layers[0].scale is None else block.layer.matrix(model),
            scale=layers[0].scale,
        )
    return found


def _weights(seen: Recording, targets: FloatArray | IntArray, plan: Plan, task: Task) -> FloatArray | None:
    """Sample weights times class weights [P], or None where all weigh the same; DataError for what is no weight."""
    weights = None if seen.weights is None else seen.weights.numpy()
    if plan.class_weight is not None:
        if task not in OF_CLASSES:
            raise DataError(
                f"class_weight goes with classes, and these targets are read as task={task!r}; leave it out, and give "
                "weights of samples with each batch instead"
            )
        by_class = np.asarray(plan.class_weight, np.float32)
        if int(targets.max(initial=0)) >= len(by_class):
            raise DataError(
                f"class_weight has {len(by_class)} entries for class {int(targets.max())}; give one a class"
            )
        weights = by_class[targets] if weights is None else weights * by_class[targets]
    if weights is not None and (not np.isfinite(weights).all() or (weights < 0).any()):
        raise DataError("sample weights have to be finite, and 0 or more")
    if weights is not None and not weights.any():
        raise NothingCountsError("all weights of these samples are 0, so that none of them counts; give some a weight")
    return weights


def _shapes(model: nn.Module, block: Block) -> dict[str, tuple[int, ...]]:
    found = {name: parameter_named(model, name) for name in block.parameters().values()}
    return {name: tuple(parameter.shape) for name, parameter in found.items() if parameter is not None}
