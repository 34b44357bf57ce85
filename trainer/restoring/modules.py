"""Lists what a model is made of, quickly: of thousands of modules torch's own walks take longer than many a pass."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, compress, pairwise
from operator import is_, not_
from typing import Any

from torch import Tensor, nn


def modules_of(model: nn.Module) -> list[nn.Module]:
    """A model and all modules in it, each once, in the order of `modules()`."""
    found, waiting = dict[int, nn.Module](), [model]
    while waiting:
        module = waiting.pop()
        if id(module) in found:
            continue
        found[id(module)] = module
        if inner := module._modules:
            waiting += [child for child in reversed(list(inner.values())) if child is not None]
    return list(found.values())


def parameters_of(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Their own parameters, each once, in the order of `parameters()`."""
    there = (value for module in modules if module._parameters for value in module._parameters.values())
    return list({id(value): value for value in there if value is not None}.values())


def buffers_of(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Their own buffers."""
    return (value for module in modules if module._buffers for value in module._buffers.values() if value is not None)


def parameter_named(model: nn.Module, name: str) -> nn.Parameter | None:
    """A parameter by any of its names; None where there is none of it."""
    owner, _, part = name.rpartition(".")
    try:
        return model.get_submodule(owner)._parameters.get(part)
    except AttributeError:
        return None


class Entries:
    """What many mappings hold, as references in two lists: a copy of each would keep the collector busy."""

    def __init__(self, mappings: Sequence[Mapping[str, Any]]) -> None:
        self._ends = [0, *accumulate(map(len, mappings))]
        self._names = list(chain.from_iterable(mappings))
        self._values = list(chain.from_iterable(mapping.values() for mapping in mappings))

    def items_but(self, names: Collection[str]) -> Iterator[tuple[str, Any]]:
        """All entries except those of such names, in order."""
        return compress(zip(self._names, self._values, strict=True), map(not_, map(names.__contains__, self._names)))

    def changed(self, mappings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number of each mapping that holds something else by now, and what it held."""
        for number, (mapping, (begin, end)) in enumerate(zip(mappings, pairwise(self._ends), strict=True)):
            if begin == end and not mapping:
                continue
            names, values = self._names[begin:end], self._values[begin:end]
            if list(mapping) != names or not all(map(is_, mapping.values(), values)):
                yield number, dict(zip(names, values, strict=True))
