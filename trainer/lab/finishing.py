"""What can be done without a solver after the last epoch: refit the last layer, or descend on the ramp itself."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Adam

from trainer.events import Event
from trainer.lab.losses import ramp
from trainer.lab.states import copy_state, write_state
from trainer.lab.tasks import Task
from trainer.model.blocks import find_layer

L2 = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Prices of the squared weights that a refit tries, the highest first: each is a start for the next."""
REFIT_ITERATIONS = 60
RAMP_EPOCHS = 15
RAMP_SLOWER = 0.3
"""The ramp's learning rate is this share of the task's own: the network is trained already."""

Candidates = Callable[[Task, nn.Module], Iterator[None]]
"""Puts one candidate after another into the model, and yields after each."""


class Finish:
    """At stalls nothing; in the end the best of several candidates, chosen by selection and validation."""

    history: tuple[Event, ...] = ()

    def __init__(self, task: Task, model: nn.Module, candidates: Candidates) -> None:
        self._task, self._model, self._candidates = task, model, candidates

    def state_dict(self) -> dict[str, Any]:
        """Nothing to know."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""

    def step(self, score: float) -> bool:
        """Do nothing."""
        return False

    def close(self, polish: bool = False, timeout: float = 60.0) -> None:
        """Try the candidates if asked for, and keep the best; the weights as they are count among them."""
        if not polish:
            return
        sign = 1.0 if self._task.mode == "max" else -1.0
        best, state = sign * self._task.score_on_both(self._model), copy_state(self._model)
        for _ in self._candidates(self._task, self._model):
            score = sign * self._task.score_on_both(self._model)
            if score > best:
                best, state = score, copy_state(self._model)
        write_state(self._model, state)


def refit(task: Task, model: nn.Module) -> Iterator[None]:
    """Solve the last layer's regression, logistic or linear, to its end, with each of several prices of its weights."""
    layer = model.get_submodule(find_layer(model, None))
    assert isinstance(layer, nn.Linear), "only linear layers are found"
    features = _inputs_of(layer, task, model)
    parameters = list(layer.parameters())
    for price in L2:
        optimizer = LBFGS(parameters, max_iter=REFIT_ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

        def slope(price: float = price, optimizer: LBFGS = optimizer) -> float:
            optimizer.zero_grad()
            loss = task.loss(layer(features), task.train.targets, task.train.weights)
            loss = loss + price * layer.weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.item()

        optimizer.step(slope)  # type: ignore[no-untyped-call]
        yield


def ramp_descent(task: Task, model: nn.Module) -> Iterator[None]:
    """Some epochs of Adam on the ramp, all samples and all layers: the first-order rival of a tunnel with that goal."""
    optimizer = Adam(model.parameters(), lr=RAMP_SLOWER * task.defaults.adam_lr)
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(RAMP_EPOCHS):
        for rows in torch.split(torch.randperm(len(task.train), generator=shuffle), task.defaults.batch_size):
            batch = task.train[rows]
            optimizer.zero_grad()
            loss = task.loss(model(batch.inputs), batch.targets, batch.weights, ramp)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield


def _inputs_of(layer: nn.Module, task: Task, model: nn.Module, rows: int = 2000) -> Tensor:
    """What the layer sees of the training samples [N, d], in evaluation mode."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for part in torch.split(task.train.inputs, rows):
            model(part)
    model.train(was_training)
    hook.remove()
    return torch.cat(seen)


FINISHES: dict[str, Candidates] = {"refit": refit, "ramp": ramp_descent}
