"""Reads any batch as what the model and the loss take, and takes batches apart into rows and together again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import DataError

LABELS = ("labels", "label", "target", "targets", "y")
INPUTS = ("x", "input", "inputs", "image", "images", "features", "data")
CURE = "say how it splits: split=lambda batch: (args, kwargs, targets)"


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch as the model and the loss take it: `model(*args, **kwargs)`, targets, and weights [n] or [n, ...].

    The leading dimension of each tensor counts samples. Leaves that are not tensors are handed on as they are.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    targets: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Tensor | None = None

    @property
    def samples(self) -> int:
        """How many there are."""
        return int(self.targets.shape[0])

    def tree(self) -> list[Any]:
        """All parts as one nested value, for taking apart."""
        return [list(self.args), dict(self.kwargs), self.targets, self.weights]

    @classmethod
    def of_tree(cls, tree: Any) -> "Batch":
        """The batch of what `tree` gave."""
        args, kwargs, targets, weights = tree
        return cls(tuple(args), kwargs, targets, weights)


Split = Callable[[Any], Any]
"""The user's way to split a batch: a Batch, or (args, kwargs, targets) or (args, kwargs, targets, weights)."""


def read_batch(batch: Any, split: Split | None = None) -> Batch:
    """Read a batch by the user's `split` or by its form; DataError with the cure if that does not tell.

    Forms: (inputs, targets), (inputs, targets, weights), inputs being a tensor or several, and a mapping with one
    entry named like labels (the others are keyword arguments, or the one positional argument if it is called `x`,
    `inputs` and the like).
    """
    found = _by_form(batch) if split is None else _by_split(split(batch))
    for leaf in _tensors(found.tree()):
        if leaf.layout != torch.strided or leaf.is_nested or leaf.is_quantized or leaf.is_meta:
            kind = "nested" if leaf.is_nested else "quantized" if leaf.is_quantized else str(leaf.layout)
            raise DataError(f"a tensor of this batch is {kind} and has no rows that could be kept; {CURE}, all dense")
        if leaf.dim() > 0 and leaf.shape[0] != found.samples:
            raise DataError(
                f"a tensor of this batch has shape {list(leaf.shape)} beside {found.samples} targets; the leading "
                f"dimension of each has to count samples. Otherwise {CURE}"
            )
    if not any(leaf.dim() > 0 for leaf in _tensors([list(found.args), dict(found.kwargs)])):
        raise DataError(f"this batch holds no input tensor; {CURE}")
    return found


def _by_split(parts: Any) -> Batch:
    if isinstance(parts, Batch):
        return parts
    if not isinstance(parts, tuple | list) or len(parts) not in (3, 4) or not isinstance(parts[1], Mapping):
        raise DataError("`split` has to give a Batch, (args, kwargs, targets) or (args, kwargs, targets, weights)")
    args, kwargs, targets, *weights = parts
    args = tuple(args) if isinstance(args, tuple | list) else (args,)
    return Batch(args, dict(kwargs), _targets(targets), _weights(weights[0] if weights else None))


def _by_form(batch: Any) -> Batch:
    if isinstance(batch, Mapping):
        return _by_labels(dict(batch))
    if isinstance(batch, tuple | list) and len(batch) in (2, 3):
        inputs, targets, *weights = batch
        if isinstance(inputs, Mapping):
            return Batch((), _arrays(dict(inputs)), _targets(targets), _weights(weights[0] if weights else None))
        several = isinstance(inputs, tuple | list) and all(isinstance(part, Tensor | np.ndarray) for part in inputs)
        args = tuple(inputs) if several else (inputs,)
        return Batch(tuple(_arrays(list(args))), {}, _targets(targets), _weights(weights[0] if weights else None))
    raise DataError(f"this batch is a {type(batch).__name__}{_size(batch)}; {CURE}")


def _by_labels(batch: dict[str, Any]) -> Batch:
    names = [name for name in LABELS if name in batch]
    if len(names) != 1:
        raise DataError(
            f"this batch is a mapping with {', '.join(map(str, batch))}, of which not one is labels; {CURE}"
        )
    targets = _targets(batch.pop(names[0]))
    if len(batch) == 1 and next(iter(batch)) in INPUTS:
        return Batch(tuple(_arrays(list(batch.values()))), {}, targets)
    return Batch((), _arrays(batch), targets)


def _targets(values: Any) -> Tensor:
    try:
        targets = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the targets are a {type(values).__name__}, not a tensor; {CURE}") from error
    if targets.dim() == 0:
        raise DataError(f"the targets of a batch are one number; {CURE}")
    return targets


def _weights(values: Any) -> Tensor | None:
    return None if values is None else torch.as_tensor(values)


def _arrays(tree: Any) -> Any:
    """The same with numpy arrays as tensors."""
    if isinstance(tree, np.ndarray):
        return torch.from_numpy(tree)
    if isinstance(tree, Mapping):
        return {name: _arrays(value) for name, value in tree.items()}
    return type(tree)(map(_arrays, tree)) if type(tree) in (tuple, list) else tree


def _size(batch: Any) -> str:
    return f" of {len(batch)}" if isinstance(batch, tuple | list) else ""


# --- rows: a batch's tensors in a fixed order, and the form they came in ----------------------------------------------


def take_apart(batch: Batch) -> tuple[list[Tensor], Any]:
    """The tensors of a batch that have a row per sample, and the form: everything else, with holes for them."""
    leaves: list[Tensor] = []

    def visit(tree: Any) -> Any:
        if isinstance(tree, Tensor) and tree.dim() > 0:
            leaves.append(tree)
            return _HOLE
        return _mapped(visit, tree)

    return leaves, visit(batch.tree())


def put_together(form: Any, leaves: Sequence[Tensor]) -> Batch:
    """The batch with these tensors in the form's holes."""
    rest = iter(leaves)

    def visit(tree: Any) -> Any:
        return next(rest) if tree is _HOLE else _mapped(visit, tree)

    return Batch.of_tree(visit(form))


class _Hole:
    def __repr__(self) -> str:
        return "tensor"


_HOLE = _Hole()


def _mapped(visit: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: visit(value) for name, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(visit, tree))
    return type(tree)(map(visit, tree)) if type(tree) in (tuple, list) else tree


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from _tensors(value)
