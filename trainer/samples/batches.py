"""Reads any batch as what the model and the loss take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import DataError, interrupts

Array = Tensor | NDArray[Any]
LABELS = ("labels", "label", "target", "targets", "y")
INPUTS = ("x", "input", "inputs", "image", "images", "features", "data")
WEIGHTS = ("weights", "weight", "sample_weights", "sample_weight")
GROUPS = ("groups", "group")
NUMBERS = ("index", "indices", "idx", "id", "ids")
GROUPS_BY = "give them by split=lambda batch: (args, kwargs, targets, None, groups), a whole number a sample"
THREE = 3
"""Inputs, targets and weights."""
CURE = "say how it splits: split=lambda batch: (args, kwargs, targets)"


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch as the model and the loss take it: `model(*args, **kwargs)`, targets, and weights [n] or [n, ...].

    `groups` [n] or [n, ...] are whole numbers that say of which group each sample is, for what compares groups. The
    leading dimension of each tensor counts samples. What is no tensor is a `Column`, or handed on as it is.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    targets: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Tensor | None = None
    groups: Tensor | None = None

    @property
    def samples(self) -> int:
        """How many there are."""
        return int(self.targets.shape[0])

    def tree(self) -> list[Any]:
        """All parts as one nested value, for taking apart."""
        return [list(self.args), dict(self.kwargs), self.targets, self.weights, self.groups]

    @classmethod
    def of_tree(cls, tree: Any) -> "Batch":
        """The batch of what `tree` gave."""
        args, kwargs, targets, weights, groups = tree
        return cls(tuple(args), kwargs, targets, weights, groups)


Split = Callable[[Any], Any]
"""The user's way to split a batch: a Batch, or (args, kwargs, targets), with weights and groups behind or not."""


def read_batch(batch: Any, split: Split | None = None) -> Batch:
    """Read a batch by the user's `split` or by its form; DataError with the cure if that does not tell.

    Forms: a Batch, (inputs, targets), (inputs, targets, weights), inputs being a tensor or several, a mapping with one
    entry named like labels (the others are keyword arguments, or the one positional argument if it is called `x`,
    `inputs` and the like). Of a named tuple, too, the fields say what is labels, weights and groups; the others are
    arguments in their order. Weights are floating-point numbers: whole ones may be indices. Whole targets come as
    int64.
    """
    found = _by_form(batch) if split is None else _by_split(split, batch)
    for leaf in tensors_in(found.tree()):
        if leaf.layout != torch.strided or leaf.is_nested or leaf.is_quantized or leaf.is_meta:
            kind = "nested" if leaf.is_nested else "quantized" if leaf.is_quantized else str(leaf.layout)
            raise DataError(f"a tensor of this batch is {kind} and has no rows that could be kept; {CURE}, all dense")
        if leaf.dim() > 0 and leaf.shape[0] != found.samples:
            raise DataError(
                f"a tensor of this batch has shape {list(leaf.shape)} beside {found.samples} targets; the leading "
                f"dimension of each has to count samples. Otherwise {CURE}"
            )
    if not any(leaf.dim() > 0 for leaf in tensors_in([list(found.args), dict(found.kwargs)])):
        raise DataError(f"this batch holds no input tensor; {CURE}")
    if found.targets.is_floating_point():
        return found
    return replace(found, targets=found.targets.long())  # in small types -100 is another number: 156 as uint8


def _by_split(split: Split, batch: Any) -> Batch:
    try:
        parts = split(batch)
    except Exception as error:  # the user's own code may raise anything
        if interrupts(error):
            raise
        raise DataError(
            f"`split` fails on this batch, a {type(batch).__name__}{_size(batch)} ({type(error).__name__}: {error}); "
            "let it take every batch of the loop"
        ) from error
    return _of_parts(parts)


def _of_parts(parts: Any) -> Batch:
    if isinstance(parts, Batch):
        parts = (parts.args, parts.kwargs, parts.targets, parts.weights, parts.groups)
    if not isinstance(parts, tuple | list) or len(parts) not in (3, 4, 5) or not isinstance(parts[1], Mapping):
        raise DataError(
            "`split` has to give a Batch, or (args, kwargs, targets) with weights and groups behind or not; weights "
            "may be None"
        )
    args, kwargs, targets, weights, groups = (*parts, None, None)[:5]
    return Batch(_several(args), dict(kwargs), _targets(targets), _weights(weights, meant=True), _groups(groups))


def _several(args: Any) -> tuple[Any, ...]:
    return tuple(args) if isinstance(args, tuple | list) else (args,)


def _by_form(batch: Any) -> Batch:
    if isinstance(batch, Batch):
        return _of_parts(batch)
    if isinstance(batch, Mapping):
        return _by_labels(dict(batch))
    if (parts := parts_of(batch)) is None:
        raise DataError(f"this batch is a {type(batch).__name__}{_size(batch)}; {CURE}")
    beside = _targets(parts.targets), _weights(parts.weights, meant=not parts.guessed), _groups(parts.groups)
    if isinstance(parts.inputs[0], Mapping) and len(parts.inputs) == 1:
        return Batch((), as_tensors(dict(parts.inputs[0])), *beside)
    return Batch(tuple(as_tensors(list(parts.inputs))), {}, *beside)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a tuple or a list has as inputs, targets and weights; `guessed`: nothing but its place says weights."""

    inputs: tuple[Any, ...]
    targets: Any
    weights: Any = None
    groups: Any = None
    guessed: bool = False


def parts_of(batch: Any) -> Parts | None:
    """The parts of a pair, a triple, or a named tuple, whose fields may say what they are; None for other forms.

    Raises DataError, with the cure, where fields speak against the order and do not say another.
    """
    if not isinstance(batch, tuple | list):
        return None
    fields = [str(name).lower() for name in getattr(batch, "_fields", ())]
    labels, weights, groups = (
        [at for at, name in enumerate(fields) if name in known] for known in (LABELS, WEIGHTS, GROUPS)
    )
    if _is_in_order(fields, labels, weights, groups):
        if len(batch) not in (2, 3):
            return None
        third = batch[2] if len(batch) == THREE else None
        return Parts(_inputs(batch[:1]), batch[1], third, guessed=len(batch) == THREE and not weights)
    left = [at for at in range(len(batch)) if at not in (*labels, *weights, *groups)]
    once = len(labels) == 1 and len(weights) <= 1 and len(groups) <= 1
    if not once or not left or any(fields[at] in NUMBERS for at in left):
        raise DataError(f"this batch is a {type(batch).__name__} with the fields {', '.join(fields)}; {CURE}")
    beside = [batch[found[0]] if found else None for found in (weights, groups)]
    return Parts(_inputs([batch[at] for at in left]), batch[labels[0]], beside[0], beside[1])


def _inputs(parts: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments: several parts, or one that may itself hold several tensors."""
    first = parts[0]
    several = isinstance(first, tuple | list) and all(isinstance(part, Tensor | np.ndarray) for part in first)
    return tuple(first) if several and len(parts) == 1 else tuple(parts)


def _is_in_order(fields: Sequence[str], *named: Sequence[int]) -> bool:
    """Whether no field speaks against inputs, targets and weights in this order; where there are none, none does."""
    labels, weights, groups = named
    inputs = [at for at, name in enumerate(fields) if name in INPUTS]
    told = labels in ([], [1]) and weights in ([], [2]) and not groups and THREE - 1 not in inputs
    return told and (0 in inputs or not inputs) and len(fields) <= THREE


def _by_labels(batch: dict[str, Any]) -> Batch:
    names = [name for name in LABELS if name in batch]
    if len(names) != 1:
        raise DataError(
            f"this batch is a mapping with {', '.join(map(str, batch))}, of which not one is labels; {CURE}"
        )
    targets = _targets(batch.pop(names[0]))
    if len(batch) == 1 and next(iter(batch)) in INPUTS:
        return Batch(tuple(as_tensors(list(batch.values()))), {}, targets)
    return Batch((), as_tensors(batch), targets)


def _targets(values: Any) -> Tensor:
    targets = _tensor(values, "targets")
    if targets.dim() == 0:
        raise DataError(f"the targets of a batch are one number; {CURE}")
    if targets.is_complex():
        raise DataError(f"the targets of a batch are complex numbers; {CURE}, with targets of real numbers")
    return targets


def _weights(values: Any = None, *, meant: bool = False) -> Tensor | None:
    """Sample weights; where no `split` says that they are meant as such, whole numbers may be indices."""
    if values is None:
        return None
    weights = _tensor(values, "weights")
    if weights.dim() == 0 or weights.is_complex():
        raise DataError(f"the weights of a batch are one number, or complex ones; give one for each sample, or {CURE}")
    if not meant and not weights.is_floating_point():
        raise DataError(
            f"the third part of this batch, its weights, is {str(weights.dtype).removeprefix('torch.')}: are these "
            f"indices? Then {CURE}; weights have to be floating-point numbers"
        )
    return weights


def _groups(values: Any) -> Tensor | None:
    """Each sample's group as int64; numbers like 1.0 are whole, as a column of the inputs may be."""
    if values is None:
        return None
    groups = _tensor(values, "groups")
    whole = not groups.is_complex() and (not groups.is_floating_point() or bool((groups.frac() == 0).all()))
    if groups.dim() == 0 or not whole:
        raise DataError(
            f"the groups of a batch are {str(groups.dtype).removeprefix('torch.')} {list(groups.shape)}; give a whole "
            "number for each sample that says of which group it is"
        )
    return groups.long()


def _tensor(values: Any, name: str) -> Tensor:
    """Targets, weights or groups as a tensor; DataError for what is no array of numbers."""
    try:
        if isinstance(values, Tensor):
            return values  # on its own device, whatever the default is
        return _of_array(np.asarray(values)) if _of_arrays(values) else torch.as_tensor(values)
    except Exception as error:  # whatever the loader yields is asked for its numbers
        raise DataError(f"the {name} are a {type(values).__name__}, not a tensor; {CURE}") from error


def _of_arrays(values: Any) -> bool:
    """Whether numpy reads these values: an array, a pandas column, a list of arrays."""
    first = values[0] if isinstance(values, tuple | list) and values else values
    on_host = hasattr(first, "__array__") and not hasattr(first, "__cuda_array_interface__")
    return on_host and not isinstance(first, Tensor)


def _of_array(array: NDArray[Any]) -> Tensor:
    """A tensor of an array's memory, or of a copy where torch does not take that as it is."""
    plain = array.flags.writeable and array.dtype.isnative and all(step >= 0 for step in array.strides)
    return torch.from_numpy(array if plain else array.astype(array.dtype.newbyteorder("=")))


def as_tensors(tree: Any) -> Any:
    """The same with numpy arrays as tensors."""
    if isinstance(tree, np.ndarray):
        try:
            return _of_array(tree)
        except (TypeError, ValueError) as error:
            raise DataError(f"an array of this batch is of {tree.dtype}, which torch does not have; {CURE}") from error
    if isinstance(tree, Mapping):
        return {name: as_tensors(value) for name, value in tree.items()}
    return type(tree)(map(as_tensors, tree)) if type(tree) in (tuple, list) else tree


def _size(batch: Any) -> str:
    return f" of {len(batch)}" if isinstance(batch, tuple | list) else ""


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists and mappings, in their order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors_in(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from tensors_in(value)
