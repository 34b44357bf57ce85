"""Tells batches whose targets are read alike from others: a job holds targets of one kind."""

from dataclasses import dataclass

from torch import Tensor

from trainer.errors import DataError
from trainer.samples.batches import Batch


@dataclass(frozen=True)
class TargetKind:
    """What targets have in common that are read in one way.

    `whole`: whole numbers or not, None where that makes no difference. `shape` is that of a batch, `axis` the dimension
    whose size counts, where one does: others may differ, as lengths and sizes of images do.
    """

    whole: bool | None
    shape: tuple[int, ...]
    axis: int | None = None

    def check(self, batch: Batch) -> None:
        """Raise DataError for a batch with other targets, or with weights or groups that do not go with them."""
        targets = batch.targets
        if not batch.samples:
            return
        if not self._fits(targets):
            raise DataError(
                f"its targets are {_told(targets.is_floating_point(), tuple(targets.shape))}, where those of the first "
                f"batches were {_told(not self.whole, self.shape)}; a job holds targets of one kind"
            )
        for name, part in (("weights", batch.weights), ("groups", batch.groups)):
            if part is not None and part.numel() not in (batch.samples, targets.numel()):
                raise DataError(f"its {name} have shape {list(part.shape)} beside targets of {list(targets.shape)}")

    def _fits(self, targets: Tensor) -> bool:
        if self.whole is not None and self.whole == targets.is_floating_point():
            return False
        if targets.dim() == len(self.shape):
            return self.axis is None or targets.shape[self.axis] == self.shape[self.axis]
        return _sizes(tuple(targets.shape)) == _sizes(self.shape)


def _sizes(shape: tuple[int, ...]) -> int:
    """How many dimensions a sample's targets have but for those of size 1."""
    return sum(size > 1 for size in shape[1:])


def _told(floating: bool, shape: tuple[int, ...]) -> str:
    kind = "floating-point" if floating else "integer"
    return f"{kind} numbers of shape [{', '.join(['N', *map(str, shape[1:])])}]"
