"""What is remembered of chains that were verified: as long as it holds, no longer, and no more than one a layer."""

import gc
import weakref

import torch
from torch import nn

from tests.unit.trainer.models import classes, seen
from trainer.model.blocks import Block, linear_layers
from trainer.model.memory import Memory

LAYERS = ("0", "2")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def blocks(model: nn.Module) -> dict[str, Block]:
    return {name: captured.block for name, captured in seen(model, *classes()).captured.items()}


def remembering(model: nn.Module) -> Memory:
    """A memory of all layers of a model."""
    memory = Memory()
    memory.recall(model, LAYERS).update(blocks(model))
    return memory


def test_what_was_verified_is_there_at_the_next_stall() -> None:
    """The same modules, of which the same may move in whatever order they are named: the same chains."""
    model = network()
    memory = remembering(model)
    assert list(memory.recall(model, ["2", "0"])) == list(LAYERS)


def test_new_weights_change_nothing() -> None:
    """A chain says what follows what, so training does not make it untrue."""
    model = network()
    memory = remembering(model)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert list(memory.recall(model, LAYERS)) == list(LAYERS)


def test_a_layer_that_was_frozen_or_freed_makes_all_be_examined_again() -> None:
    """What may move decides which layers a chain may carry along."""
    model = network()
    memory = remembering(model)
    assert memory.recall(model, ["2"]) == {}
    assert memory.recall(model, LAYERS) == {}


def test_another_module_in_a_place_makes_all_be_examined_again() -> None:
    """Even one of the same kind and shape: what follows it may be called otherwise."""
    model = network()
    memory = remembering(model)
    model[1] = nn.ReLU()
    assert memory.recall(model, LAYERS) == {}


def test_it_holds_one_chain_a_layer_however_many_stalls_there_are() -> None:
    """Later looks replace what is known instead of adding to it."""
    model = network()
    memory = remembering(model)
    for _ in range(3):
        memory.recall(model, LAYERS).update(blocks(model))
    assert sorted(memory.recall(model, LAYERS)) == sorted(linear_layers(model))


def test_modules_that_are_gone_are_let_go() -> None:
    """After the next stall nothing holds on to a layer that was replaced, nor to its weights."""
    model = network()
    memory = remembering(model)
    gone = weakref.ref(model[2])
    model[2] = nn.Linear(8, 4)
    memory.recall(model, LAYERS)
    gc.collect()
    assert gone() is None
