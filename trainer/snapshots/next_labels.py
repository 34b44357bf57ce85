"""Finds out whether each position of a sequence is trained on its own label or on the next one's.

Language models of Transformers shift labels inside, others are given them shifted, and a class's name says nothing of
it. So three things are asked: whether labels are the inputs themselves, the model's own loss, and what the model fits.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import CaptureError, TrainerError, interrupts
from trainer.model.watch import forward
from trainer.samples.batches import LABELS, Batch
from trainer.samples.heads import View
from trainer.samples.outputs import Path

OWN, NEXT = 0, 1
"""By how many places a position's label is further than the position."""
BOTH = frozenset({OWN, NEXT})
OTHERS = (-1, 2, -2, 3)
"""By how many it may be else, which is said then."""
FITS = 0.9
"""Of the best constant's cross-entropy: a model that has less has learned something."""
ASKED, MOST = 64, 256
"""Positions on which the model's own loss is asked, at least, and those on which outputs are held against labels."""
TOLD = 0.5
"""Of the difference that a reading predicts, what is seen of it at least."""
ALIKE = 1e-2
"""Of the spread of scores, what is no difference."""
ROUNDED = 16
"""Of what a loss's type rounds off, below which differences say nothing."""
SPLIT = (
    "give `split` so that each position has its own target: split=lambda batch: ((), {'input_ids': "
    "batch['input_ids']}, targets), with -100 where there is none"
)
OWN_IS_NEITHER = (
    "the model's own loss compares a position's scores neither with its own label nor with the next one's, and so far "
    f"the model fits neither of them; for a loss of the loop's own, {SPLIT}"
)
FITS_ANOTHER = (
    "the model's scores at position t fit neither the label at t nor that at t+1, but that at t%+d: the loop's loss "
    f"shifts labels by that much; {SPLIT}"
)
FED = (
    "the model makes inputs from the labels, as encoder-decoders do, and is run without labels here; have batches "
    "bring these inputs (`decoder_input_ids`: DataCollatorForSeq2Seq(tokenizer, model=model) makes them)"
)


def rows_to_ask(targets: Tensor) -> int:
    """How many rows `read_labels` asks the model's own loss about, of targets [n, T]."""
    return max(2, math.ceil(ASKED / max(1, targets.shape[-1])))


def are_sequences(view: View, output: Tensor, targets: Tensor) -> bool:
    """Whether targets are a class for each place of sequences [n, T], of several places each."""
    classes = view.task == "classification" and not targets.is_floating_point()
    match tuple(targets.shape):
        case (rows, places):
            return classes and places > 1 and rows * places == len(view.matrix(output))
    return False


@dataclass(frozen=True)
class Reading:
    """How labels are read: `shifted` where a position's target is the next one's label; `doubtful` where none tells.

    That is before training as a rule, and later where a loop's loss is about something else than labels in a row.
    """

    shifted: bool = False
    doubtful: bool = False


def read_labels(
    model: nn.Module, batch: Batch, output: Tensor, some: Batch, view: View, ignore_index: int, path: Path | None = None
) -> Reading:
    """Whether a position's target is the next one's label, by a batch with its output, and some of its rows.

    `path` is where the scores are in what the model puts out.

    Where the inputs and the model's own loss say the same, that is it. Otherwise the likelier reading gives way to the
    other one if the model fits that and not this. CaptureError where it is neither, or where labels are inputs, too.
    """
    targets = batch.targets
    scores = view.matrix(output).reshape(*targets.shape, -1)
    classes = _classes(targets, scores.shape[-1], ignore_index)
    inputs, own = _by_inputs(batch, ignore_index), _by_own_loss(model, some, view, classes, path)
    likely = min(inputs if len(inputs) == 1 else own or BOTH)
    if inputs == own and len(own) == 1:
        return Reading(likely == NEXT)
    for lag in (likely, OWN + NEXT - likely):
        if _fits(scores, targets, lag, ignore_index):
            return Reading(lag == NEXT)
    if not own:
        raise CaptureError(OWN_IS_NEITHER)
    for lag in OTHERS:
        if _fits(scores, targets, lag, ignore_index):
            raise CaptureError(FITS_ANOTHER % lag)
    somewhat = any(_fits(scores, targets, lag, ignore_index, share=1.0) for lag in BOTH)
    return Reading(likely == NEXT, doubtful=own != {likely} and not somewhat)


def _by_inputs(batch: Batch, ignore_index: int) -> frozenset[int]:
    """What the inputs allow: no model is trained to tell what it is given, but labels may be the next inputs."""
    targets = batch.targets
    counts = targets != ignore_index
    known = targets[counts]
    if not known.numel() or bool((known == known[0]).all()):  # labels of one kind may equal anything
        return BOTH
    alike = [
        given.to(targets.device)
        for given in (*batch.args, *batch.kwargs.values())
        if isinstance(given, Tensor) and given.shape == targets.shape and not given.is_floating_point()
    ]
    if any(bool((given == targets)[counts].all()) for given in alike):
        return frozenset({NEXT})
    ahead = counts[:, :-1]
    if any(bool(ahead.any() and (given[:, 1:] == targets[:, :-1])[ahead].all()) for given in alike):
        return frozenset({OWN})
    return BOTH


def _classes(targets: Tensor, count: int, ignore_index: int) -> Tensor:
    """Those of so many classes that occur [c]: a model may score others that it cannot take as labels."""
    known = (targets != ignore_index) & (targets >= 0) & (targets < count)
    return targets[known].bincount().nonzero().flatten()


def _by_own_loss(model: nn.Module, some: Batch, view: View, classes: Tensor, path: Path | None) -> frozenset[int]:
    """What the model's own loss allows, where it makes one of labels: none of both, if it is of other places.

    It is asked twice. At each place the two labels are those whose scores differ the most from the place before. So the
    second loss is larger by what the scores say if it is of these places, smaller if it is of those before; what else
    is in it cancels out. CaptureError where labels change the scores.
    """
    name = _label_name(model)
    if name is None or name in some.kwargs or not len(classes):
        return BOTH
    try:
        scores = view.matrix(forward(model, some, path)).reshape(*some.targets.shape, -1).float()
    except TrainerError:  # it takes whole batches alone
        return BOTH
    news = (scores[:, 1:] - scores[:, :-1])[..., classes]
    liked, disliked = (_with_first(classes[best]) for best in (news.argmax(dim=-1), news.argmin(dim=-1)))
    ask = partial(_loss_of, model, some, name, size=scores.numel())
    (low, one), (high, other) = ask(liked), ask(disliked)
    if low is None or high is None:
        return BOTH
    if not _differ(one, other):
        return _explained(float(high - low), scores, liked, disliked, least=_rounded(low))
    if _differ(one, ask(liked)[1]):  # whatever the labels are: that is told elsewhere
        return BOTH
    raise CaptureError(FED)


def _explained(gained: float, scores: Tensor, liked: Tensor, disliked: Tensor, least: float) -> frozenset[int]:
    """Which places explain by how much the loss of the one labels is below that of the others, to so much at least."""
    by_own = float(_difference(scores, liked, disliked).mean())
    by_next = float(_difference(scores[:, :-1], liked[:, 1:], disliked[:, 1:]).mean())
    middle, half = (by_own + by_next) / 2, (by_own - by_next) / 2
    told = (gained - middle) / half if half > least else math.nan
    if not math.isfinite(told):
        return BOTH
    return frozenset({OWN} if told > TOLD else {NEXT} if told < -TOLD else ())


def _rounded(loss: Tensor) -> float:
    """A difference of such losses that is no rounding."""
    return ROUNDED * torch.finfo(loss.dtype).eps * abs(float(loss))


def _with_first(chosen: Tensor) -> Tensor:
    """Labels [n, T] of those behind the first place [n, T-1]; the first one is a class like others."""
    return torch.cat([chosen[:, :1], chosen], dim=1)


def _difference(scores: Tensor, liked: Tensor, disliked: Tensor) -> Tensor:
    """By how much scores [n, T, C] of the one class are above those of the other [n, T]."""
    both = torch.stack([liked, disliked], dim=-1)
    found = scores.gather(-1, both)
    return found[..., 0] - found[..., 1]


def _label_name(model: nn.Module) -> str | None:
    """Under which name `forward` takes labels, if it may."""
    try:
        taken = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return None
    named = next((name for name in LABELS if name in taken), None)
    anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
    return named or (LABELS[0] if anything else None)


def _differ(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether scores are others, where there are any."""
    if one is None or other is None:
        return False
    return bool((one - other).abs().max() > ALIKE * one.std())


def _loss_of(
    model: nn.Module, batch: Batch, name: str, labels: Tensor, size: int
) -> tuple[Tensor | None, Tensor | None]:
    """The loss that the model makes of these labels, and the scores that it puts out beside it; None for what lacks."""
    try:
        output = model(*batch.args, **batch.kwargs, **{name: labels})
    except Exception as error:  # the user's own code may raise anything
        if interrupts(error):
            raise
        return None, None
    parts = _parts(output)
    loss = next((part for part in parts if part.dim() == 0 and part.is_floating_point()), None)
    scores = next((part for part in parts if part.numel() == size and part.dim() > 1), None)
    return loss, scores


def _parts(output: Any) -> list[Tensor]:
    """The tensors of an output: of a mapping, a tuple, or an object with a loss and scores."""
    if isinstance(output, Mapping):
        found = list(output.values())
    elif isinstance(output, tuple | list):
        found = list(output)
    else:
        found = [getattr(output, "loss", None), getattr(output, "logits", None)]
    return [part for part in found if isinstance(part, Tensor)]


def _fits(scores: Tensor, targets: Tensor, lag: int, ignore_index: int, share: float = FITS) -> bool:
    """Whether scores [n, T, C] are better than the best constant for labels [n, T] so many places further.

    Their cross-entropy is below that `share` of the constant's.
    """
    length = targets.shape[1]
    kept = slice(max(0, -lag), length - max(0, lag))
    labels = targets[:, max(0, lag) : length + min(0, lag)]
    rows, places = (labels != ignore_index).nonzero(as_tuple=True)
    if not len(rows):
        return False
    some = torch.arange(0, len(rows), max(1, len(rows) // MOST), device=rows.device)
    rows, places = rows[some], places[some]
    wanted = labels[rows, places]
    own = scores[:, kept][rows, places].float()
    if bool((wanted < 0).any()) or int(wanted.max()) >= own.shape[-1]:
        return False
    found = float(nn.functional.cross_entropy(own, wanted))
    shares = wanted.bincount().double() / len(wanted)
    return found < share * float(-shares.xlogy(shares).sum())
