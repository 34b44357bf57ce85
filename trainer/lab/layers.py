"""Lists every layer of the user's model, linear or not, for `gdsolver explain`."""

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import SGD

from trainer.errors import TaskError
from trainer.lab.factory import call_factory, load_factory
from trainer.model.eligibility import Eligibility, eligible
from trainer.model.wrappers import unwrap

NOT_LINEAR = "only nn.Linear and nn.Conv2d layers are tunnelled"


def survey(name: str, inputs: int | None, outputs: int | None) -> list[Eligibility]:
    """Every module with parameters of its own, of the model that the factory `name` makes, in the model's order.

    The factory returns a model, or a model and its optimizer. Raises TaskError for anything else.
    """
    made = call_factory(load_factory(name, "MODULE:FACTORY"), name, "MODULE:FACTORY", inputs, outputs)
    model, optimizer = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"{name} returned {_told(made)}; it has to return a torch.nn.Module, or one and its optimizer",
            field="MODULE:FACTORY",
        )
    if optimizer is None:
        if not list(model.parameters()):
            raise TaskError(f"the model of {name} has no parameters", field="MODULE:FACTORY")
        optimizer = SGD(model.parameters(), lr=0.0)
    linear = eligible(model, optimizer)
    others = {
        module_name: Eligibility(module_name, type(module).__name__, 0, 0, NOT_LINEAR)
        for module_name, module in unwrap(model).named_modules()
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, ParametrizationList)
    }
    return list((others | linear).values())


def _told(made: Any) -> str:
    return f"({', '.join(type(part).__name__ for part in made)})" if isinstance(made, tuple) else type(made).__name__
