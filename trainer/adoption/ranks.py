"""One decision for all ranks: rank zero decides, the others do what it does, so that their weights stay the same bits.

`validate` may itself speak to the other ranks (a mean over all of them), so whenever rank zero calls it, all do. Each
rank has to have a tunneller therefore, and they have to train one model: both is seen to when a tunneller is made.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import distributed, nn
from torch.optim import Optimizer

from trainer.adoption import parameters
from trainer.adoption.standing import Change
from trainer.model.blocks import Values, parameters_by_name

Word = Literal["write", "undo", "validate", "screen", "adopt", "done"]
MOST_WAITED_S = 120.0
"""For the other ranks' tunnellers."""
FEW = 64
"""Values of each parameter that tell models apart."""
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
                "DistributedDataParallel has made them equal; for a model of its own on each, do without "
                "torch.distributed"
            )

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
    """What tells a model from another one: names, shapes, and a few values of each parameter."""
    found = hashlib.sha256()
    for name, parameter in parameters_by_name(model).items():
        few = parameter.detach().reshape(-1)[:FEW].to("cpu", torch.float64)
        found.update(f"{name} {tuple(parameter.shape)} {few.tolist()}".encode())
    return found.hexdigest()


@dataclass(eq=False)
class Weights:
    """Changes of the live model, on every rank alike."""

    model: nn.Module
    optimizer: Optimizer
    ranks: Ranks = field(default_factory=Ranks.present)

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
                    case "done":
                        return adopted
                    case _:
                        calls[word](what)
