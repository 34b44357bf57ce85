"""Takes batches apart into leaves with a row for each sample, and puts them together again."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.samples.batches import Batch
from trainer.samples.columns import Column, told

Leaf = Tensor | Column
"""What has a row for each sample."""


def take_apart(batch: Batch) -> tuple[list[Leaf], Any]:
    """All of a batch that has a row per sample, in a fixed order, and the form: everything else, with holes for it."""
    leaves: list[Leaf] = []

    def visit(tree: Any) -> Any:
        if isinstance(tree, Column) or (isinstance(tree, Tensor) and tree.dim() > 0):
            leaves.append(tree)
            return _HOLE
        return _mapped(visit, tree)

    return leaves, visit(batch.tree())


def put_together(form: Any, leaves: Sequence[Leaf]) -> Batch:
    """The batch with these leaves in the form's holes."""
    rest = iter(leaves)

    def visit(tree: Any) -> Any:
        if tree is not _HOLE:
            return _mapped(visit, tree)
        leaf = next(rest)
        return leaf.restored() if isinstance(leaf, Column) else leaf

    return Batch.of_tree(visit(form))


def kind_of(form: Any) -> Hashable:
    """What tells a form from other ones; most are holes in tuples, lists and dicts, and soon told."""
    if form is _HOLE or form is None:
        return form
    if type(form) in (tuple, list):
        return (type(form), *map(kind_of, form))
    if type(form) is dict:
        return (dict, *((name if type(name) is str else told(name), kind_of(part)) for name, part in form.items()))
    return told(form)


def joined(parts: Sequence[Leaf]) -> Leaf:
    """Rows of equal kind, one below the other."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    columns = [part for part in parts if isinstance(part, Column)]
    return torch.cat(tensors) if tensors else Column.joined(columns)


def stacked(leaves: Sequence[Leaf], rows: Sequence[int]) -> Leaf:
    """A copy of one row of each leaf, all of equal kind, one below the other."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if tensors:  # taking views is much cheaper than taking copies of single rows
        return torch.stack([leaf[row] for leaf, row in zip(tensors, rows, strict=True)])
    columns = [leaf for leaf in leaves if isinstance(leaf, Column)]
    return Column.joined([leaf[torch.tensor([row])] for leaf, row in zip(columns, rows, strict=True)])


class _Hole:
    """The place of a leaf; there is but one."""


_HOLE = _Hole()


def _mapped(visit: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: visit(value) for name, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(visit, tree))
    return type(tree)(map(visit, tree)) if type(tree) in (tuple, list) else tree
