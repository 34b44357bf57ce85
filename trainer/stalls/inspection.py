"""Looks at the stalled model on the samples that were kept, and chooses what a tunnel is about."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from torch import nn

from shared.constraint_checks import check_constraints
from shared.errors import SpecError
from shared.objectives import Objective
from trainer.errors import CaptureError, DataError, MisfitError
from trainer.journal import Journal
from trainer.model.eligibility import Eligibility
from trainer.model.memory import Memory
from trainer.model.view import LayerView
from trainer.model.wrappers import unwrap
from trainer.pool.job_template import JobTemplate
from trainer.pool.line import Line
from trainer.samples.reservoir import Reservoir
from trainer.snapshots.capture import Captured, Look, called, look
from trainer.snapshots.keeping import unkept
from trainer.speaking import logger
from trainer.stalls.doubts import Doubts
from trainer.stalls.layers import check_final, final_ones
from trainer.stalls.policy import choose
from trainer.stalls.radius import AdaptiveRadius
from trainer.stalls.survey import relative_gradients, survey
from trainer.stalls.turns import Turns

POOL_FACTOR = 4
"""A job's samples are chosen among this many times as many."""
TRIES = 3
"""So many layers that are called last are tried by default, before the one that is defined last."""
DOUBTFUL = (
    "the model fits labels of sequences no better than one guess for all would, neither those of the positions nor "
    "those of the next ones (the plan says which of them jobs hold): if the loop's loss compares scores with something "
    "else, give `split` that gives just that"
)
DRY_ROWS = 256
"""Of a pass that only looks what there is."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a stall's jobs are about: a layer's samples and view; how long the pass took, over how many samples.

    `reached`: no layer that was looked at is dead on all of them, so that gradients come to all.
    """

    captured: Captured
    view: LayerView
    seconds: float
    samples: int
    reached: bool


@dataclass(frozen=True, eq=False)
class Inspector:
    """Passes kept samples through the live model; `auto` says that the policy chooses the layer.

    `eligible` says what may move now: a loop may freeze layers, or put others in their place, while it trains.
    """

    model: nn.Module
    eligible: Callable[[], Mapping[str, Eligibility]]
    reservoir: Reservoir
    template: JobTemplate
    journal: Journal
    radius: AdaptiveRadius
    turns: Turns
    line: Line
    auto: bool
    doubts: Doubts
    _memory: Memory = field(default_factory=Memory)
    _said: set[str] = field(default_factory=set)
    _never_free: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._never_free.update(name for name, layer in self.eligible().items() if layer.why is not None)

    def free(self) -> tuple[str, ...]:
        """The layers that may move by now, in the model's order."""
        return tuple(name for name, layer in self.eligible().items() if layer.why is None)

    def final(self, layers: Sequence[str]) -> str | None:
        """The last of the layers, if it may move and the latest look has shown nothing behind it; else None."""
        free, last = self.free(), layers[-1]
        block = self._memory.recall(self.model, free).get(last)
        return None if last in self.turns.distrusted or block is None or block.tail else last

    def plan(self, layers: Sequence[str]) -> str:
        """One line on what will be tunnelled, from a pass over a few samples.

        Raises CaptureError if nothing can be, DataError or SpecError if targets, objective or constraints do not fit.
        Of several layers, those that could not keep the constraints on weights are not tried.
        """
        return self._planned(self.look(layers, 0, most=DRY_ROWS))

    def _planned(self, seen: Look) -> str:
        faults = {
            name: fault
            for name, captured in seen.captured.items()
            if (
                fault := unkept(
                    self.template.constraints,
                    captured,
                    unwrap(self.model),
                    radius=self.radius.value(name, captured.weight_size),
                    project_above=self.template.plan.project_above,
                )
            )
        }
        if faults and len(faults) == len(seen.captured):
            index, why = next(iter(faults.values()))
            raise SpecError(why, field=f"constraints.{index}")
        self.turns.distrusted.update({name: why for name, (_, why) in faults.items()})
        seen = replace(seen, captured={name: one for name, one in seen.captured.items() if name not in faults})
        view = self._choose(seen, last=False)
        captured = seen.captured[view.name]
        goal = self.template.goal(captured.snapshot)
        goal.check(captured.snapshot)
        check_constraints(self.template.constraints, captured.snapshot, complete=False)  # a few samples, or one batch
        return self._told(view, captured, goal)

    def _told(self, view: LayerView, captured: Captured, goal: Objective) -> str:
        """The plan in words; a model that is one layer has no name for it."""
        count, task = view.samples(self.template.plan.samples), captured.snapshot.task
        name = repr(view.turn) if view.name else "the model itself"
        radius = "" if view.whole else f", radius {self.radius.value(view.name, captured.weight_size):.3g}"
        shifted = ", each position of the next label" if captured.reader.shifted else ""
        about = f"{task}, {goal.name}{shifted}{self._weighted()}"
        remark = self.template.remark(captured.snapshot, hidden=view.hidden and not view.whole)
        return (
            f"tunnels {name} ({about}): up to {count:,} samples a job "
            f"({captured.sample_bytes * count / 1e6:.2g} MB){radius}, "
            f"answers after at most {self.template.time_s:g} s{remark}"
        )

    def _weighted(self) -> str:
        """Words on weights that were guessed: a batch's third part may be anything else."""
        if not self.reservoir.weighs:
            return ""
        rows = self.reservoir.rows(DRY_ROWS, np.random.default_rng([self.template.seed, 0]))
        found = [batch.weights for _, batch in rows.batches(DRY_ROWS, torch.device("cpu")) if batch.weights is not None]
        ends = [f"{float(end):.3g}" for part in found for end in (part.min(), part.max())]
        low, high = min(ends, key=float), max(ends, key=float)
        return f", weighted by the batch's third part, {low} to {high}"

    def begin(self, layers: Sequence[str], *, by_default: bool) -> tuple[tuple[str, ...], str]:
        """The layers in the order in which a forward pass calls them, and the plan; raises as `plan` does.

        A module may define its layers in another order, and call some that lead nowhere: these come before those that
        can be tunnelled. `by_default`: the final one, whichever place it has; FinalLayerError where that may not move.
        """
        if not (by_default or self.auto):
            return tuple(layers), self.plan(layers)
        found = self.eligible()
        order = self._called(final_ones(self.model, found) if by_default else layers)
        if not by_default:
            seen = self.look(layers, 0, most=DRY_ROWS)
            last = [name for name in order if name in seen.captured]
            return (*(name for name in layers if name not in last), *last), self._planned(seen)
        for name in islice((name for name in reversed(order) if found[name].why is None), TRIES):
            with suppress(CaptureError):
                if (name in layers and name == order[-1]) or self._is_final(name):
                    return (name,), self.plan((name,))
        check_final(found, order, self._never_free)
        return tuple(layers), self.plan(layers)

    def _is_final(self, layer: str) -> bool:
        """Whether nothing but the model's output follows a layer."""
        return not self._choose(self.look([layer], 0, most=DRY_ROWS), last=False).hidden

    def _called(self, layers: Sequence[str]) -> tuple[str, ...]:
        generator = np.random.default_rng([self.template.seed, 0])
        rows = self.reservoir.rows(DRY_ROWS, generator)
        return tuple(dict.fromkeys(called(self.model, rows, self.template.plan, layers)))

    def inspect(self, layers: Sequence[str], stall: int, *, budget_s: float, last: bool) -> Found:
        """What this stall's jobs are about; CaptureError or DataError with the reason where there is nothing."""
        left = [name for name in layers if name not in self.turns.distrusted]
        if not left:
            raise CaptureError("; ".join(f"layer {name!r}: {self.turns.distrusted[name]}" for name in layers))
        seen = self.look(left, stall, most=POOL_FACTOR * self.template.plan.samples, budget_s=budget_s)
        found = self._found(seen, self._choose(seen, last=last), stall)
        if self.journal.gd_step:  # a model that nobody trains knows nothing
            self.doubts.look(found.captured.whole, found.captured.scores)
        return found

    def again(self, layer: str, turn: str, stall: int, *, budget_s: float) -> Found:
        """What jobs on a layer (`turn`: or on it and all behind it) are about now; CaptureError if that is gone."""
        seen = self.look([layer], stall, most=POOL_FACTOR * self.template.plan.samples, budget_s=budget_s)
        views = survey(seen, gradients={}, tail_moves=self.template.tail_radius != 0, whole=turn != layer)
        view = next((view for view in views if view.turn == turn), None)
        if view is None:
            raise CaptureError(seen.refused.get(layer, f"layer {turn!r} cannot be tunnelled any more"))
        return self._found(seen, view, stall)

    def _found(self, seen: Look, view: LayerView, stall: int) -> Found:
        generator = np.random.default_rng([self.template.seed, stall, 1])
        captured = seen.captured[view.name]
        most = min(view.samples(self.template.plan.samples), captured.whole.samples)
        captured = captured.with_samples(self.line.samples(most), generator)
        reached = all(one.active.any() for one in seen.captured.values())
        return Found(captured, view, seen.seconds, seen.samples, reached)

    def look(self, layers: Sequence[str], stall: int, *, most: int, budget_s: float = math.inf) -> Look:
        """One pass over at most so many kept samples."""
        if not self.reservoir.size:
            raise DataError("no samples were seen: loop over tunneller.watch(loader), or call tunneller.observe(...)")
        found = self.eligible()
        free = set(self.free())
        if not free.intersection(layers):
            raise CaptureError("; ".join(_why(name, found.get(name)) for name in layers))
        known = self._memory.recall(self.model, free)
        generator = np.random.default_rng([self.template.seed, stall])
        try:
            seen = look(
                self.model,
                self.reservoir.rows(most, generator),
                self.template.plan,
                layers=[name for name in layers if name in free],
                radius_of=self.radius.value,
                budget_s=budget_s,
                generator=generator,
                movable=free,
                known=known,
            )
        except MisfitError:
            self.reservoir.kind = None  # the model may be another one by now, and take other targets
            raise
        self.reservoir.kind = next((one.reader.kind for one in seen.captured.values()), self.reservoir.kind)
        known.update({name: captured.block for name, captured in seen.captured.items()})
        self.journal.capture_s += seen.seconds
        if seen.left_out and "left out" not in self._said:
            self._said.add("left out")
            logger.warning("%d of the kept samples hold NaN or infinity; jobs do without such samples", seen.left_out)
        if stall and seen.doubtful and "labels" not in self._said:
            self._said.add("labels")
            logger.warning(DOUBTFUL)
        return seen

    def _choose(self, seen: Look, *, last: bool) -> LayerView:
        gradients = relative_gradients(self.model, seen.captured) if self.auto else {}
        whole, tail_moves = self.auto and self.template.whole, self.template.tail_radius != 0
        views = survey(seen, gradients=gradients, tail_moves=tail_moves, whole=whole)
        if not views:
            raise CaptureError(next(iter(seen.refused.values()), "no layer can be tunnelled"))
        return choose(views, {} if last else self.turns.failures) if self.auto else views[0]


def _why(name: str, layer: Eligibility | None) -> str:
    why = "it is no longer there" if layer is None else layer.why
    return f"layer {name!r} cannot be tunnelled any more: {why}"
