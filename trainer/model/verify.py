"""Trust, then verify: moves a layer of the live model a little and looks whether the chain says what the model does."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.snapshot import FloatArray
from trainer.errors import CaptureError
from trainer.model.blocks import Array, Block, Layer, Owners, linear_layer, named, weight_size, why_not
from trainer.model.chain import described, propose, refused
from trainer.model.folding import Folded, absorbs, fold, link, recorded_for, scores, with_offsets
from trainer.model.joins import NEAREST, Sight
from trainer.model.live import written
from trainer.model.recognise import Precision
from trainer.model.watch import Call, Recording, Watcher
from trainer.samples.positions import at_places
from trainer.samples.reservoir import Rows

TENTH = 0.1
FAR = 8.0
"""Pre-activations that the last perturbations reach typically: far enough for what saturates to show it."""
MOST_FAR = 100.0

SINGLE = Precision(2.0**-23, 16.0)
PRECISIONS = {torch.float64: Precision(2.0**-24, 16.0), torch.float16: Precision(2.0**-10, 1.0)}
PRECISIONS |= {torch.bfloat16: Precision(2.0**-7, 1.0)}


@dataclass(frozen=True)
class Tolerance:
    """How far a chain's outputs may be from the model's: rounding in multiples of `unit`, and shares of their range."""

    unit: float
    same: float
    moved: float


def precision_of(calls: Sequence[Call], output: Tensor) -> Precision:
    """The coarsest precision among a model's linear layers and its output."""
    dtypes = [call.dtype for call in calls if call.put_out] + [output.dtype]
    return max((PRECISIONS.get(dtype, SINGLE) for dtype in dtypes), key=lambda precision: precision.unit)


def tolerance_of(precision: Precision, device: torch.device) -> Tolerance:
    """What goes with a precision: half precision leaves fewer digits, and tensor cores multiply with 10 bits."""
    if precision.unit > SINGLE.unit:
        return Tolerance(4.0 * precision.unit, 2e-2, 0.1)
    shortened = device.type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
    return Tolerance(2.0**-9, 5e-3, 5e-2) if shortened else Tolerance(16.0 * SINGLE.unit, 1e-3, 1e-2)


@dataclass(frozen=True, eq=False)
class Far:
    """A pass with a layer's parameters multiplied by `factor`."""

    factor: float
    seen: Recording


@dataclass(frozen=True, eq=False)
class Examiner:
    """Examines layers one by one on the same few rows; the model is in evaluation mode, and is put back each time.

    `costs` are the seconds for each position that comparing a chain with the model takes, by layer.
    """

    model: nn.Module
    watcher: Watcher
    calls: Sequence[Call]
    task: str
    precision: Precision
    tolerance: Tolerance
    rows: Rows
    base: Recording
    radius_of: Callable[[str, float], float]
    generator: np.random.Generator
    owners: Owners
    movable: Collection[str] | None = None
    costs: dict[str, float] = field(default_factory=dict)
    distant: dict[str, Sequence[Far]] = field(default_factory=dict)

    def examine(self, name: str, tail: Sequence[str | nn.Module] | None) -> Block:
        """The chain behind a layer, verified; CaptureError, with the reason, if there is none."""
        if name not in self.base.taken_in or name not in self.base.put_out:
            raise CaptureError(refused(name, "what it puts out are not the positions of the model's output"))
        move = self._nudged([name], 1.0)
        moved = self._pass(move)
        parts = [part for seen in (self.base, moved) for part in (seen.put_out[name], seen.output)]
        if not all(np.isfinite(part).all() for part in parts):
            raise CaptureError(not_finite(name))
        if self.precision.differ(self.base.taken_in[name], moved.taken_in[name]):
            raise CaptureError(refused(name, "what it takes in depends on what it puts out"))
        sight = Sight(self.model, self.calls, self.task, self.precision, [self.base, moved], self.far)
        block = propose(sight, name) if tail is None else described(self.model, name, tail)
        block = replace(block, tail=tuple(self._held(layer) for layer in block.tail))
        self._verify(block, move, moved, given=tail is not None)
        return block

    def restless(self) -> bool:
        """Whether the model puts out other values although nothing was moved, by more than rounding."""
        return self.precision.differ(self._put_out({}).output, self.base.output)

    def _held(self, layer: Layer) -> Layer:
        """A layer behind the block, fixed if its weights are not its own or may not move."""
        free = self.movable is None or layer.name in self.movable
        return layer if free and why_not(self.model, layer.name, self.owners) is None else replace(layer, fixed=True)

    def _verify(self, block: Block, near: Mapping[str, Tensor], moved: Recording, *, given: bool) -> None:
        """Raise CaptureError unless the chain explains the model as it is, and each way in which it was moved."""
        if not self._stands(block):
            raise CaptureError(_unexplained(block, given=given))
        base = with_offsets(fold(self.model, block), block, self.base)
        small = self._nudged([layer.name for layer in block.layers if layer is block.layer or not layer.fixed], TENTH)
        trials = [(near, moved), (small, self._put_out(small))]
        for far in self._distant(block.layer.name):
            trials.append((self._stretched(block.layer.name, far.factor), far.seen))
        for move, seen in trials:
            if not self._follows(block, base, move, seen):
                raise CaptureError(_unexplained(block, given=given))

    def confirm(self, block: Block) -> bool:
        """Whether a chain that was verified before still explains the model as it is.

        Where a residual path makes up for whatever the chain gets wrong, the layer has to be moved for that to show.
        """
        if not self._stands(block):
            return False
        if not absorbs(block):
            return True
        move = self._nudged([block.layer.name], 1.0)
        return self._follows(block, with_offsets(fold(self.model, block), block, self.base), move, self._put_out(move))

    def _stands(self, block: Block) -> bool:
        """Whether the chain gives what the model put out, nothing moved."""
        inputs, outputs = recorded_for(block)
        if not (inputs <= self.base.taken_in.keys() and outputs <= self.base.put_out.keys()):
            return False
        begun = time.perf_counter()
        done = explains(block, with_offsets(fold(self.model, block), block, self.base), self.base, self.tolerance)
        self.costs[block.layer.name] = (time.perf_counter() - begun) / len(self.base.row)
        return done

    def _follows(self, block: Block, base: Sequence[Folded], move: Mapping[str, Tensor], seen: Recording) -> bool:
        """Whether the chain's outputs go where the model's went in a pass with parameters moved."""
        with written(self.model, move):
            there = keep_offsets(fold(self.model, block), base)
        values = self.base.taken_in[block.layer.name]
        if not explains(block, there, replace(seen, taken_in=self.base.taken_in), self.tolerance):
            return False
        (before, size), (after, size_after) = (scores(layers, values) for layers in (base, there))
        ours = [link(block.link, made) for made in (before, after)]
        theirs = [self.base.output.astype(np.float64), seen.output.astype(np.float64)]
        return move_alike(ours, theirs, self.tolerance.unit * np.maximum(size, size_after), self.tolerance.moved)

    def _pass(
        self,
        values: Mapping[str, Tensor],
        inputs: Collection[str] | None = None,
        outputs: Collection[str] | None = None,
    ) -> Recording:
        """A pass over the same positions with parameters moved, of some layers or all that were recorded before."""
        choose = at_places(self.base.row, self.base.place)
        wanted = [list(every if some is None else some) for some, every in
                  [(inputs, self.base.taken_in), (outputs, self.base.put_out)]]  # fmt: skip
        with written(self.model, values):
            return self.watcher.run(self.rows, choose, inputs=wanted[0], outputs=wanted[1])

    def _put_out(self, values: Mapping[str, Tensor]) -> Recording:
        """A pass that records the model's output alone: of a hundred layers each is moved, and each pass runs all."""
        return self._pass(values, (), ())

    def far(self, name: str) -> Sequence[Recording]:
        """Passes with a layer moved far; none where the model refuses that, or computes no numbers."""
        return [far.seen for far in self._distant(name)]

    def _distant(self, name: str) -> Sequence[Far]:
        """With the other sign, and with its own where a unit has not been far on both sides by then.

        Pre-activations that are all positive become negative ones, and what looked linear no longer does; what is cut
        off far up shows only where they are positive.
        """
        if name not in self.distant:
            typical = float(np.median(np.abs(self.base.put_out[name])))
            factor = min(MOST_FAR, max(1.0, FAR / max(typical, 1e-6)))
            found = [far for far in [self._far(name, -factor)] if far is not None]
            if found and not _both_sides(found[0].seen.put_out[name]):
                found += [far for far in [self._far(name, factor)] if far is not None]
            self.distant[name] = found
        return self.distant[name]

    def _far(self, name: str, factor: float) -> Far | None:
        behind = list(self.base.taken_in)
        near = behind[behind.index(name) + 1 :][:NEAREST]  # what cannot be of use is not kept
        try:
            seen = self._pass(self._stretched(name, factor), near, [name])
        except CaptureError:
            return None
        return Far(factor, seen) if _finite(seen) else None

    def _nudged(self, names: Sequence[str], share: float) -> dict[str, Tensor]:
        """The parameters of layers, each moved up or down by its layer's radius times `share`."""
        found = {}
        for name in names:
            module = linear_layer(self.model, name)
            own = module.weight.detach()
            size = weight_size(float(own.abs().mean()), own[0].numel())
            radius = share * self.radius_of(name, size)
            for part, value in module._parameters.items():
                if value is not None:
                    signs = torch.from_numpy(
                        self.generator.choice(np.array([-1.0, 1.0], np.float32), tuple(value.shape))
                    )
                    found[named(name, part)] = value.detach() + radius * signs.to(value)
        return found

    def _stretched(self, name: str, factor: float) -> dict[str, Tensor]:
        """The layer's parameters so large, and with such a sign, that activations show what they are."""
        module = linear_layer(self.model, name)
        return {
            named(name, part): factor * value.detach()
            for part, value in module._parameters.items()
            if value is not None
        }


def _both_sides(values: FloatArray) -> bool:
    """Whether every unit's values [N, h] reach about as far below 0 as typical ones, and as far above."""
    return bool((values.max(axis=0) > FAR / 2).all() and (values.min(axis=0) < -FAR / 2).all())


def _finite(seen: Recording) -> bool:
    parts = [seen.output, *seen.taken_in.values(), *seen.put_out.values()]
    return all(np.isfinite(part).all() for part in parts)


def not_finite(name: str) -> str:
    """Why a layer is refused where there is NaN or infinity."""
    return (
        f"layer {name!r} or the model puts out NaN or infinity for some of the samples; leave those out in `split`, or "
        "scale what the model puts out"
    )


def keep_offsets(layers: Sequence[Folded], base: Sequence[Folded]) -> list[Folded]:
    """Layers with the residual paths of the model as it was."""
    return [replace(layer, offset=old.offset) for layer, old in zip(layers, base, strict=True)]


def explains(block: Block, layers: Sequence[Folded], seen: Recording, tolerance: Tolerance) -> bool:
    """Whether the chain, applied to what the block took in, gives what the model put out."""
    values = seen.taken_in[block.layer.name]
    if not _fitting(layers, values.shape[1]):
        return False
    made, size = scores(layers, values)
    return agree(link(block.link, made), seen.output.astype(np.float64), tolerance.unit * size, tolerance.same)


def _fitting(layers: Sequence[Folded], width: int) -> bool:
    widths = [width, *(layer.weight.shape[0] for layer in layers)]
    return all(layer.weight.shape[1] == entering for layer, entering in zip(layers, widths, strict=False))


def _unexplained(block: Block, *, given: bool) -> str:
    name = block.layer.name
    if given:
        return f"the tail given for layer {name!r} does not lead to the model's output"
    chain = " -> ".join(_shown(layer) for layer in block.layers)
    return refused(name, f"it looks like {chain}, but the model does something else when the layer moves")


def _shown(layer: Layer) -> str:
    return f"{layer.name} ({layer.activation})"


def agree(ours: NDArray[Any], theirs: NDArray[Any], noise: Array, relative: float) -> bool:
    """Whether the chain's outputs are the model's: apart by rounding, or by little compared to how they vary."""
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        return False
    spread = np.abs(theirs - theirs.mean(axis=0)).max(axis=0)
    return bool((np.abs(ours - theirs) <= noise + relative * spread).all())


def move_alike(ours: Sequence[Array], theirs: Sequence[Array], noise: Array, relative: float) -> bool:
    """Whether the model's outputs moved from one pass to the other as the chain's did."""
    made, there = ours[1] - ours[0], theirs[1] - theirs[0]
    if made.shape != there.shape or not np.isfinite(there).all():
        return False
    return bool((np.abs(made - there) <= 2 * noise + relative * np.abs(made).max()).all())
