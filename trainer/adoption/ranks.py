"""One decision for all ranks: rank zero decides, the others do what it does, so that their weights stay the same bits.

`validate` may itself speak to the other ranks (a mean over all of them), so whenever rank zero calls it, all do. Each
rank has to have a tunneller therefore, and they have to train one model: both is seen to when a tunneller is made. That
the models are still one is seen to whenever a layer is captured, and again before an answer is tried.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from trainer.adoption import parameters
from trainer.adoption.standing import Change
from trainer.model.blocks import Values, parameters_by_name
from trainer.speaking import logger

Word = Literal["write", "undo", "validate", "screen", "adopt", "compare", "done"]
MOST_WAITED_S = 120.0
"""For the other ranks' tunnellers."""
AT_ONCE = 1 << 20
"""Numbers that are read at once where models are compared: no copy of one is made."""
BITS = {1: torch.uint8, 2: torch.int16}
"""Whole numbers by their size in bytes; larger values are one int32 or several, four at most."""
HAVE_PARTED = (
    "the ranks' models have come to differ, as in federated rounds or where each rank trains by itself, and what is "
    "adopted is written into all of them: nothing is, and nothing is tunnelled, while they differ. Where ranks are "
    "averaged now and then, call step() right after that. For a model of its own on each rank, make the Tunneller "
    "before init_process_group"
)
_made = itertools.count()


@dataclass(frozen=True)
class Ranks:
    """The ranks of a training run, seen from one of them; without torch.distributed there is but one."""

    rank: int
    count: int

    @classmethod
    def present(cls) -> "Ranks":
        """As torch.distributed has them now."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls(0, 1)

    @property
    def leads(self) -> bool:
        """Whether this one decides."""
        return self.rank == 0

    def agree(self, model: nn.Module) -> None:
        """Wait until each rank has a tunneller; ValueError where one has none, or where their models differ."""
        store = getattr(distributed.distributed_c10d, "_get_default_store", None) if self.count > 1 else None
        if store is None:
            return
        prefix, shared = f"gdsolver/{next(_made)}", store()
        keys = [f"{prefix}/{rank}" for rank in range(self.count)]
        shared.set(keys[self.rank], _digest(model))
        try:
            shared.wait(keys, timedelta(seconds=MOST_WAITED_S))
        except Exception as error:  # which one it is depends on the store
            raise ValueError(
                f"not every rank made a Tunneller within {MOST_WAITED_S:g} s, and rank zero decides for all; make one "
                "on each rank, with the same arguments, and call its step() and close() there, too"
            ) from error
        if len({bytes(shared.get(key)) for key in keys}) > 1:
            raise ValueError(
                "the ranks' models differ, and what is adopted is written into all of them; make the Tunneller after "
                "DistributedDataParallel has made them equal; for a model of its own on each, make it before "
                "init_process_group"
            )

    def alike(self, model: nn.Module) -> bool:
        """Whether all ranks have the same parameters to the last bit; every rank has to ask."""
        if self.count == 1:
            return True
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, _digest(model))
        return len(set(found)) == 1

    def tell(self, word: Word, what: Any = None) -> None:
        """Have the others do the same; a no-op where there are none."""
        if self.count > 1:
            distributed.broadcast_object_list([(word, what)], src=0)

    def hear(self) -> tuple[Word, Any]:
        """What rank zero says next."""
        said: list[Any] = [None]
        distributed.broadcast_object_list(said, src=0)
        found: tuple[Word, Any] = said[0]
        return found


def _digest(model: nn.Module) -> str:
    """What tells a model from another one: names, shapes, and all bits of each parameter.

    Buffers are left out: statistics of BatchNorm may be each rank's own.
    """
    found = hashlib.sha256()
    for name, parameter in parameters_by_name(model).items():
        values = parameter.detach()
        found.update(f"{name} {tuple(values.shape)} {values.dtype} {_checksum(values)}".encode())
    return found.hexdigest()


def _checksum(values: Tensor) -> tuple[int, ...]:
    """All bits as whole numbers, each times an odd number of its own (modulo 2**32), summed over so many at a time.

    On the tensor's own device: the sum is the same in whatever order it adds up.
    """
    odd = 2 * torch.arange(min(AT_ONCE, 4 * values.numel()), dtype=torch.int32, device=values.device) + 1
    sums = []
    for part in torch.split(values.reshape(-1), AT_ONCE // 4):
        bits = part.contiguous().view(BITS.get(part.element_size(), torch.int32)).to(torch.int32)
        sums.append((bits * odd[: len(bits)]).sum())
    return tuple(map(int, sums))


@dataclass(eq=False)
class Weights:
    """Changes of the live model, on every rank alike."""

    model: nn.Module
    optimizer: Optimizer
    ranks: Ranks = field(default_factory=Ranks.present)
    _said: bool = field(default=False, init=False)

    def differ(self) -> bool:
        """Whether the ranks' models have come to differ, so that nothing may be written into all; one warning tells.

        Rank zero asks, and the others while they follow.
        """
        self.ranks.tell("compare")
        if self.ranks.alike(self.model):
            return False
        if not self._said:
            logger.warning(HAVE_PARTED)
        self._said = True
        return True

    @contextmanager
    def tried(self, values: Values) -> Iterator[None]:
        """These values in the model for a moment; bit by bit as before afterwards, whatever happens."""
        self.ranks.tell("write", dict(values))
        try:
            with parameters.tried(self.model, values):
                yield
        finally:
            self.ranks.tell("undo")

    def adopt(self, values: Values) -> Change:
        """These values from now on, with a fresh optimizer state."""
        before = parameters.read(self.model, values)
        self.ranks.tell("adopt", dict(values))
        self._take(values)
        return Change(before, parameters.read(self.model, values))

    def _take(self, values: Values) -> None:
        parameters.write(self.model, values)
        parameters.forget(self.model, self.optimizer, values)

    def follow(self, calls: Mapping[str, Callable[[Any], object]]) -> bool:
        """Do what rank zero does until it is done; True if adopted.

        `calls` say what "validate" and "screen" are; each is told what rank zero has said besides.
        """
        adopted = False
        with ExitStack() as trial:
            while True:
                word, what = self.ranks.hear()
                match word:
                    case "write":
                        trial.enter_context(parameters.tried(self.model, what))
                    case "undo":
                        trial.close()
                    case "adopt":
                        self._take(what)
                        adopted = True
                    case "compare":
                        self.ranks.alike(self.model)
                    case "done":
                        return adopted
                    case _:
                        calls[word](what)
