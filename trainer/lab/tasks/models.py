"""Other models for a task than its own: one of the user's, or a multi-layer perceptron of other widths."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import TaskError
from trainer.lab.factory import call_factory, load_factory
from trainer.lab.tasks.base import Task


def with_hidden(task: Task, widths: tuple[int, ...]) -> Task:
    """The task with a ReLU network of these hidden widths; TaskError for one whose inputs are no vectors."""
    if min(widths) < 1:
        raise TaskError(f"{min(widths)} is no width; use numbers like 16,8", field="--hidden")
    if task.train.inputs.dim() != 2:
        raise TaskError(f"{task.name} has images for inputs; give a model of your own with --model", field="--hidden")
    sizes = (task.train.inputs.shape[1], *widths, task.outputs)

    def model() -> nn.Module:
        layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    return replace(task, model=model)


def with_model(task: Task, name: str) -> Task:
    """The task with the model that the user's factory `name` makes, tried on two samples.

    Raises TaskError for what it returns if that is no new module each time, or does not fit the data.
    """
    factory = load_factory(name, "--model")
    size, outputs = task.train.inputs[0].numel(), task.outputs

    def model() -> nn.Module:
        made = call_factory(factory, name, "--model", size, outputs)
        if not isinstance(made, nn.Module):
            raise TaskError(f"{name} returned a {_kind(made)}; it has to return a torch.nn.Module", field="--model")
        return made

    with torch.random.fork_rng(devices=[]):
        _check(name, model, task)
    return replace(task, model=model)


def _check(name: str, make: Callable[[], nn.Module], task: Task) -> None:
    model = make()
    if model is make():
        raise TaskError(
            f"{name} returned the same model twice; every run needs a new one, so make it inside the function",
            field="--model",
        )
    inputs = task.train.inputs[:2]
    model.eval()
    try:
        with torch.no_grad():
            found = model(inputs)
    except Exception as error:
        shape = list(inputs.shape)
        raise TaskError(
            f"its model cannot be applied to inputs {shape} of type float32: {type(error).__name__}: {error}",
            field="--model",
        ) from error
    wanted = [len(inputs), task.outputs]
    if not isinstance(found, Tensor) or list(found.shape) != wanted:
        what = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else f"a {_kind(found)}"
        means = "one score a class" if task.kind == "classification" else "one number a target"
        raise TaskError(f"its model puts out {what} for two samples, not {wanted}: {means}", field="--model")


def _kind(value: Any) -> str:
    return f"tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
