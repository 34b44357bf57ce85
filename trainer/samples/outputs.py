"""Finds the tensor that holds a model's scores among all that its forward puts out."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from shared.snapshot import Task
from trainer.errors import DataError
from trainer.samples.heads import View, fitting

Path = tuple[Hashable, ...]
"""Where a tensor is in an output: keys, one within another; () is the output itself."""


@dataclass(frozen=True)
class Candidate:
    """A tensor whose shape fits the targets, and how many classes it has scores for, where it is one of classes.

    `made_by` are the trainable parameters that it comes from, by their ids.
    """

    path: Path
    shape: tuple[int, ...]
    classes: int | None
    single: bool
    made_by: frozenset[int] = frozenset()

    def beyond(self, other: "Candidate") -> int:
        """How many parameters it comes from that the other does not."""
        return len(self.made_by - other.made_by)


def tensors_of(output: Any) -> dict[Path, Tensor]:
    """The tensors of an output by their paths: itself, `.logits` alone where there are such, or all of a tuple.

    DataError, with the cure, where there is none.
    """
    if isinstance(output, Tensor):
        return {(): output}
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return {("logits",): logits}
    several = isinstance(output, tuple | list) or (isinstance(output, Mapping) and len(output) == 1)
    if several and (found := dict(_within(output, ()))):
        return found
    raise DataError(
        f"the model puts out a {type(output).__name__}; GDSolver reads a tensor, an object with `.logits`, or the "
        "tensors of a tuple. Otherwise give the Tunneller a module around the model, whose forward returns the "
        f"scores alone{_such_as(output)}"
    )


def _within(tree: Any, path: Path) -> Iterator[tuple[Path, Tensor]]:
    """All tensors, those that are less deep first."""
    pairs = list(tree.items()) if isinstance(tree, Mapping) else list(enumerate(tree))
    yield from (((*path, key), part) for key, part in pairs if isinstance(part, Tensor))
    for key, part in pairs:
        if isinstance(part, tuple | list | Mapping):
            yield from _within(part, (*path, key))


def _such_as(output: Any) -> str:
    """How to take the first tensor from an output, in code."""
    if isinstance(output, Mapping):
        return next((f": self.model(x)[{name!r}]" for name, part in output.items() if isinstance(part, Tensor)), "")
    parts = getattr(output, "__dict__", {})
    return next((f": self.model(x).{name}" for name, part in parts.items() if isinstance(part, Tensor)), "")


def tensor_at(output: Any, path: Path | None = None) -> Tensor:
    """The tensor of an output at a path, or the first one; DataError where it has none there."""
    found = tensors_of(output)
    if path is None:
        return next(iter(found.values()))
    if path not in found:
        raise DataError(f"the model puts out a {type(output).__name__} that is another one than before")
    return found[path]


def by_rows(output: Tensor, rows: int) -> Tensor:
    """An output with the leading dimension that `squeeze()` takes from a batch of one; DataError without rows."""
    if rows == 1 and (output.dim() == 0 or len(output) != 1):
        return output.unsqueeze(0)
    if output.dim() == 0:
        raise DataError(
            f"the model puts out one number for a batch of {rows}; let it put out scores for each sample, in eval() at "
            "least: the loss is not what GDSolver reads"
        )
    return output


def candidates(output: Any, targets: Tensor, task: Task | None, ignore_index: int, rows: int) -> list[Candidate]:
    """The tensors of an output that fit the targets of so many rows, or the first one of all if none does.

    Targets may be of more samples. Where several fit, a class beyond its scores tells one that does not.
    """
    found = tensors_of(output)
    plain = next(iter(found))
    if len(found) == 1:
        return [Candidate(plain, tuple(found[plain].shape), None, single=False)]
    whole = None if targets.is_floating_point() else targets[targets != ignore_index]
    seen = 0 if whole is None or not whole.numel() else int(whole.max()) + 1
    fit = []
    for path, tensor in found.items():
        views = fitting(tensor, targets, task) if tensor.dim() and len(tensor) == rows else []
        if views:
            classes = _classes(views[0], tensor, targets)
            fit.append(Candidate(path, tuple(tensor.shape), classes, views[0].axis is None or classes == 1))
    feasible = [one for one in fit if one.classes is None or max(one.classes, 2) >= seen]
    return feasible or fit or [Candidate(plain, tuple(found[plain].shape), None, single=False)]


def _classes(view: View, tensor: Tensor, targets: Tensor) -> int | None:
    """How many scores a position of whole targets has; None where these are no classes."""
    if targets.is_floating_point() or view.task not in ("classification", "binary"):
        return None
    return 1 if view.axis is None else tensor.shape[view.axis]


def choose(found: Sequence[Candidate], targets: Tensor, ignore_index: int) -> Path:
    """The one of several that holds the scores; DataError, with the cure, where nothing says which.

    What another one is made from is on the way to it. Of others that of the fewest classes is meant, and of equal ones
    the first, unless another one comes from more: then the first may be an auxiliary head. Side by side stand a mean
    and its variance, of which the mean comes first. Tensors from the same parameters, such as probabilities beside
    logits, are one head.
    """
    ends = [one for one in found if not any(one.made_by < other.made_by for other in found)]
    heads = [one for place, one in enumerate(ends) if not any(_same(one, other) for other in ends[:place])]
    left = _narrowest(heads)
    seen = set() if targets.is_floating_point() else set(targets[targets != ignore_index].reshape(-1).tolist())
    all_seen = [one for one in found if one.classes and seen == set(range(max(one.classes, 2)))]
    contradicted = bool(all_seen) and not set(all_seen).intersection(left)
    first = left[0]
    if contradicted or any(other.beyond(first) > first.beyond(other) for other in left):
        raise DataError(_told(found if contradicted else left))
    return first.path


def _same(one: Candidate, other: Candidate) -> bool:
    return one.made_by == other.made_by and one.shape == other.shape


def _narrowest(heads: Sequence[Candidate]) -> list[Candidate]:
    """Those with the fewest scores for all classes; one output beside scores of three classes says nothing."""
    widths = [one.classes for one in heads if one.classes is not None]
    if len(widths) < len(heads) or len(set(widths)) == 1:
        return list(heads)
    least = min(width for width in widths if width > 1)
    if least > 2 and 1 in widths:
        return list(heads)
    return [one for one in heads if one.classes == least]


def _told(found: Sequence[Candidate]) -> str:
    names = [f"{_code(one.path)} of shape [{', '.join(['N', *map(str, one.shape[1:])])}]" for one in found]
    return (
        f"the model puts out several tensors that fit the targets, {', '.join(names[:-1])} and {names[-1]}, and which "
        "of them the loss compares with these targets cannot be seen; give the Tunneller a module around the model, "
        f"whose forward returns the scores alone, such as self.model(x){_code(found[-1].path)}"
    )


def _code(path: Path) -> str:
    return "".join(f"[{key!r}]" for key in path)
