"""Finds out how one layer's pre-activations became what the next layer took in, from passes in which they moved."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from shared.activations import IDENTITY, Activation
from trainer.model.blocks import Affine, Array, affine_of
from trainer.model.folding import LINKS, OUTPUT, link
from trainer.model.recognise import Precision, candidates, recognise, seen_as, slope_of_moves
from trainer.model.watch import Call, Recording

NEAREST = 6
"""So many layers before one are tried as where its inputs come from."""


@dataclass(frozen=True)
class Join:
    """How a layer's pre-activations became what came next; see Layer for the words."""

    activation: Activation
    before: str | None = None
    enters: str | None = None
    offset: bool = False
    source: tuple[str, str] | None = None
    link: str = ""


@dataclass(frozen=True, eq=False)
class Sight:
    """All that was seen of a layer: the model's calls, passes with the model as it is and with the layer moved.

    `far(name)` are passes with any layer moved so far that activations show what they are, as many as could be made.
    """

    model: nn.Module
    calls: Sequence[Call]
    task: str
    precision: Precision
    passes: Sequence[Recording]
    far: Callable[[str], Sequence[Recording]]

    def taken_in(self, name: str) -> list[Array]:
        """What a layer took in, pass by pass."""
        return [seen.taken_in[name].astype(np.float64) for seen in self.passes]

    def put_out(self, name: str) -> list[Array]:
        """What a layer put out, pass by pass."""
        return [seen.put_out[name].astype(np.float64) for seen in self.passes]

    def output(self) -> list[Array]:
        """What the model put out, pass by pass."""
        return [seen.output.astype(np.float64) for seen in self.passes]

    def place(self, name: str) -> int:
        """When a layer was called."""
        return next(place for place, call in enumerate(self.calls) if call.name == name)

    def between(self, first: str, then: str | None) -> Sequence[Call]:
        """The calls after one layer and before another, or the end."""
        return self.calls[self.place(first) + 1 : None if then is None else self.place(then)]


def nearest_source(sight: Sight, earlier: Sequence[str], target: str | None) -> tuple[str, Join] | None:
    """The nearest layer that explains a layer's inputs (or the model's output), without a residual path or with one."""
    after = sight.output() if target is None else sight.taken_in(target)
    near = [name for name in reversed(earlier) if sight.put_out(name)[0].shape == after[0].shape][:NEAREST]
    for attempt in (_linked, _plain, _residual, _residual_inside):
        for name in near:
            before = sight.put_out(name)
            if attempt(sight, name, target, before, after) is None:
                continue
            made, there = farther(sight, name, target)  # what seems to fit has to fit far away, too
            join = attempt(sight, name, target, [*before, *made], [*after, *there])
            if join is not None:
                return name, join
    return None


def farther(sight: Sight, name: str, target: str | None) -> tuple[list[Array], list[Array]]:
    """What a layer put out when it was moved far, and what came next; nothing where the model could not be run so."""
    made, there = [], []
    for seen in sight.far(name):
        after = seen.output if target is None else seen.taken_in.get(target)
        if after is not None:
            made.append(seen.put_out[name].astype(np.float64))
            there.append(after.astype(np.float64))
    return made, there


def _plain(sight: Sight, name: str, target: str | None, before: list[Array], after: list[Array]) -> Join | None:
    """An activation, with a batch normalisation before or behind it."""
    seen = hint(sight, name, target)
    made, there = np.concatenate(before), np.concatenate(after)
    for norm, affine in _norms(sight, name, target, made.shape[1]):
        if affine is None:
            if (found := recognise(made, there, sight.precision, seen)) is not None:
                return Join(found)
            continue
        size = np.abs(affine.scale * made) + np.abs(affine.mean * affine.scale) + np.abs(affine.shift)
        if (found := recognise(affine(made), there, sight.precision, seen, size)) is not None:
            return Join(found, before=norm)
        if target is not None and (found := _normalised(affine, made, there, sight.precision, seen)) is not None:
            return Join(found, enters=norm)
    return None


def _normalised(
    affine: Affine, made: Array, there: Array, precision: Precision, seen: Activation | None
) -> Activation | None:
    """The activation for which the normalisation of its values is what came next; units scaled by 0 tell nothing."""
    told = affine.scale != 0.0
    scale, shift, made = affine.scale[told], affine.shift[told], made[:, told]
    unscaled = (there[:, told] - shift) / scale
    size = np.abs(unscaled) + np.abs(shift / scale) + np.abs(affine.mean[told])
    return recognise(made, unscaled, precision, seen, size + np.abs(made))


def _linked(sight: Sight, name: str, target: str | None, before: list[Array], after: list[Array]) -> Join | None:
    """A softmax and the like at the end, over the scores of a position."""
    if target is not None:
        return None
    made, there = np.concatenate(before), np.concatenate(after)
    for found in LINKS[sight.task]:
        reach = 1.0 + np.abs(made).max(axis=1, keepdims=True)
        size = np.minimum(reach, 1.0) if found != "log_softmax" else reach
        if (np.abs(link(found, made) - there) <= 4 * sight.precision.noise(size, 2 * reach)).all():
            return Join(IDENTITY, link=found)
    return None


def _residual(sight: Sight, name: str, target: str | None, before: list[Array], after: list[Array]) -> Join | None:
    """An activation and something added that did not move with the layer."""
    seen = hint(sight, name, target)
    norms = [(norm, affine) for norm, affine in _norms(sight, name, target, before[0].shape[1])]
    for norm, affine in norms:
        made = before if affine is None else [affine(part) for part in before]
        for activation in (*((seen,) if seen else ()), *candidates(slope_of_moves(made, after))):
            if target is None and activation != IDENTITY:
                continue  # the wire adds offsets before the activation, and nothing comes behind the last layer
            if _moves_alike([activation(part) for part in made], made, after, sight.precision):
                source = (OUTPUT, "") if target is None else None
                return Join(activation, before=norm, offset=True, source=source)
    return None


def _moves_alike(acted: list[Array], made: list[Array], after: list[Array], precision: Precision) -> bool:
    """Whether what came next moved, from pass to pass, as the activation's values did."""
    for act, before, then in zip(acted[1:], made[1:], after[1:], strict=True):
        noise = precision.noise(np.maximum(np.abs(then), np.abs(after[0])), np.maximum(np.abs(before), np.abs(made[0])))
        if (np.abs((then - after[0]) - (act - acted[0])) > 2 * noise).any():
            return False
    return len(after) > 1


def _residual_inside(
    sight: Sight, name: str, target: str | None, before: list[Array], after: list[Array]
) -> Join | None:
    """Something added before the activation: what another layer takes in or puts out."""
    seen, there = hint(sight, name, target), np.concatenate(after)
    for kind, other, added in _constants(sight, name, before[0].shape):
        made = np.concatenate([part + added for part in before])
        found = recognise(made, there, sight.precision, seen)
        if found is not None:
            return Join(found, offset=True, source=(kind, other))
    return None


def _constants(sight: Sight, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, str, Array]]:
    """What layers took in or put out that has this shape and did not move."""
    ways: Mapping[str, Any] = {"taken_in": sight.taken_in, "put_out": sight.put_out}
    for call in reversed(sight.calls):
        for kind, read in ways.items():
            own_output = kind == "put_out" and call.name == name
            if call.name in getattr(sight.passes[0], kind) and not own_output:
                values = read(call.name)
                if values[0].shape == shape and not any(sight.precision.differ(values[0], value) for value in values):
                    yield kind, call.name, values[0]


def hint(sight: Sight, name: str, target: str | None) -> Activation | None:
    """The activation that was called between two layers, if it was exactly one."""
    seen = {found for call in sight.between(name, target) if (found := seen_as(call.module)) not in (None, IDENTITY)}
    return next(iter(seen)) if len(seen) == 1 else None


def _norms(sight: Sight, name: str, target: str | None, width: int) -> list[tuple[str | None, Affine | None]]:
    """No normalisation, and those called between two layers that have their number of units."""
    found: list[tuple[str | None, Affine | None]] = [(None, None)]
    for call in sight.between(name, target):
        affine = affine_of(sight.model, call.name)
        if affine is not None and len(affine.scale) == width:
            found.append((call.name, affine))
    return found
