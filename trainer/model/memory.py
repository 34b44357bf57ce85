"""Remembers chains that were verified, so that a stall with little time need not examine the model again."""

from collections.abc import Collection

from torch import nn

from trainer.model.blocks import Block


class Memory:
    """The chains of one model by layer, for as long as it has the same modules and the same of its layers may move."""

    def __init__(self) -> None:
        self._modules: dict[str, nn.Module] = {}
        self._movable: frozenset[str] = frozenset()
        self._blocks: dict[str, Block] = {}

    def recall(self, model: nn.Module, movable: Collection[str]) -> dict[str, Block]:
        """What is known, to be added to; nothing where layers have been frozen, freed or put in others' places."""
        modules, free = dict(model.named_modules()), frozenset(movable)
        if (modules, free) != (self._modules, self._movable):
            self._modules, self._movable, self._blocks = modules, free, {}
        return self._blocks
