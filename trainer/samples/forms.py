"""Takes batches apart into leaves with a row for each sample, and puts them together again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.samples.batches import Batch
from trainer.samples.columns import Column

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


def joined(parts: Sequence[Leaf]) -> Leaf:
    """Rows of equal kind, one below the other."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    columns = [part for part in parts if isinstance(part, Column)]
    return torch.cat(tensors) if tensors else Column.joined(columns)


class _Hole:
    """The place of a leaf; there is but one."""


_HOLE = _Hole()


def _mapped(visit: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: visit(value) for name, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(visit, tree))
    return type(tree)(map(visit, tree)) if type(tree) in (tuple, list) else tree
