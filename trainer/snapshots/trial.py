"""Tries answers out in the live model: does it do what the job promised, and what are they worth on the kept rows?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.objectives import Objective
from shared.snapshot import Snapshot
from trainer.errors import CaptureError
from trainer.model.folding import Folded, converted, fold, recorded_for, unlink, with_offsets
from trainer.model.live import device_of, live, written
from trainer.model.verify import explains, keep_offsets, tolerance_of
from trainer.model.watch import Recording, Watcher, key_of
from trainer.restoring.modules import parameter_named
from trainer.samples.positions import at_places
from trainer.samples.reservoir import Rows
from trainer.snapshots.assembly import subset
from trainer.snapshots.captured import Captured

FEWEST_ROWS = 64
COMPARING = 2.0
"""How much longer a trial takes than its pass: what came of it is computed, and held against the chain."""


@dataclass(frozen=True)
class Trial:
    """What became of one candidate in the live model.

    `why` is None if the model does what the chain says with these weights, else what stands against adopting them;
    `value` is the objective on the live outputs, NaN where there are none.
    """

    why: str | None
    value: float


def try_out(
    model: nn.Module,
    captured: Captured,
    objective: Objective,
    candidates: Sequence[Mapping[str, NDArray[np.float32]]],
    *,
    budget_s: float,
) -> tuple[float, list[Trial]]:
    """The objective of the model as it is on the samples of a snapshot, and a trial of each candidate there.

    Each candidate (parameters by name) is written into the live model and put back bit by bit. The chain is computed
    from what the live block takes in, with the candidate's weights and the live tail, and residual paths as they are
    now. As many of the snapshot's rows are run as the budget allows, at least 64 or all. Raises CaptureError if the
    model cannot be run on them.
    """
    with live(model) as inner:
        run = _Trials(inner, captured, objective, 1 + len(candidates), budget_s)
        return run.value, [run.trial(candidate) for candidate in candidates]


class _Trials:
    """The trials of one answer's candidates, on the same rows."""

    def __init__(
        self, model: nn.Module, captured: Captured, objective: Objective, passes: int, budget_s: float
    ) -> None:
        self._model, self._captured, self._objective = model, captured, objective
        self._watcher = Watcher(model, captured.reader)
        self._tolerance = tolerance_of(captured.precision, device_of(model))
        self._rows, self._row, self._place = self._numbered(captured)
        inputs, outputs = recorded_for(captured.block)
        self._seen = self._watcher.run(
            self._rows,
            at_places(self._row, self._place),
            inputs=sorted(inputs),
            outputs=sorted(outputs),
            until=lambda rows, seconds: rows >= FEWEST_ROWS and COMPARING * seconds * passes > budget_s,
            batch=FEWEST_ROWS,
        )
        if self._rows.alike:  # those that are run again are the first ones
            self._rows = self._rows.take(range(self._seen.rows)).together()
        self._snapshot = self._part_seen(captured)
        self._base = with_offsets(fold(model, captured.block), captured.block, self._seen)
        name = captured.block.layer.name
        self._taken_in = {**self._seen.taken_in, name: converted(self._base, self._seen.taken_in[name])}
        seen = replace(self._seen, taken_in=self._taken_in)
        self._sound = explains(captured.block, self._base, seen, self._tolerance)
        self.value = self._value(self._base, self._seen)

    def _numbered(self, captured: Captured) -> tuple[Rows, NDArray[np.int64], NDArray[np.int64]]:
        """The positions of the snapshot, in rows that are numbered anew."""
        origin = captured.origin.take(captured.chosen)
        numbers, row = np.unique(origin.row, return_inverse=True)
        self._numbers = numbers
        rows = origin.rows.take(numbers)  # gathered as far as there is time to run them
        return rows, row.reshape(-1).astype(np.int64), origin.place

    def _part_seen(self, captured: Captured) -> Snapshot:
        """The snapshot's samples that were run, in the order of the recording; only the rows seen are run later."""
        keys = key_of(self._row, self._place)
        by_key = np.argsort(keys, kind="stable")
        return subset(captured.snapshot, by_key[np.searchsorted(keys, self._seen.key, sorter=by_key)])

    def _value(self, layers: Sequence[Folded], seen: Recording) -> float:
        live_scores = unlink(self._captured.block.link, seen.output.astype(np.float64))
        if not np.isfinite(live_scores).all():
            return float("nan")
        value = self._objective.of_outputs(self._snapshot, live_scores)
        return value + self._objective.penalty(layers[0].weight.astype(np.float32))

    def trial(self, candidate: Mapping[str, NDArray[np.float32]]) -> Trial:
        """Write a candidate in, run the rows, and put the parameters back."""
        block = self._captured.block
        if not self._sound:
            return Trial(f"what follows layer {block.layer.name!r} is no longer what it was at the stall", float("nan"))
        values = self._tensors(candidate)
        if isinstance(values, str):
            return Trial(values, float("nan"))
        try:
            with written(self._model, values):
                layers = keep_offsets(fold(self._model, block), self._base)
                seen = self._rerun()
        except CaptureError as error:
            return Trial(str(error), float("nan"))
        # what the block takes in is that of the model as it is: a job cannot know of a block that feeds itself
        assumed = replace(seen, taken_in=self._taken_in)
        value = self._value(layers, seen)
        if not explains(block, layers, assumed, self._tolerance):
            return Trial(
                f"with the answer's weights the model does not do what the job says: what follows layer "
                f"{block.layer.name!r} is not the chain that was solved",
                value,
            )
        return Trial(None, value)

    def _rerun(self) -> Recording:
        """The same positions again."""
        batches = at_places(self._seen.row, self._seen.place)
        seen_until = self._seen.rows
        return self._watcher.run(self._rows, batches, until=lambda rows, seconds: rows >= seen_until, batch=FEWEST_ROWS)

    def _tensors(self, candidate: Mapping[str, NDArray[np.float32]]) -> "dict[str, Tensor] | str":
        """A candidate as tensors of the parameters' shapes, or what is wrong with it."""
        found = {}
        for name, values in candidate.items():
            parameter = parameter_named(self._model, name)
            if parameter is None or values.size != parameter.numel():
                return f"the model has no parameter {name!r} of shape {list(values.shape)}"
            if not np.isfinite(values).all():
                return f"the answer's {name} holds NaN or infinity"
            found[name] = torch.from_numpy(np.array(values)).reshape(parameter.shape)
        return found
