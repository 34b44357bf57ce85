"""Nested states (of models, optimizers, runs) as safetensors and back: reading one can run nothing, as pickle could."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

TENSOR, TUPLE, PAIRS = "__tensor__", "__tuple__", "__pairs__"


def save(path: Path, tree: Any) -> None:
    """Write a tree of dicts, lists, tuples, tensors and plain values; TypeError names what is none of these."""
    tensors: dict[str, Tensor] = {}
    form = _packed(tree, tensors)
    safetensors.torch.save_file(tensors, str(path), metadata={"tree": json.dumps(form)})


def load(path: Path) -> Any:
    """Read what `save` wrote; raises what safetensors, json and KeyError raise for another file."""
    with safe_open(str(path), framework="pt") as file:
        form = json.loads(file.metadata()["tree"])
        return _unpacked(form, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)


def _packed(tree: Any, tensors: dict[str, Tensor]) -> Any:
    match tree:
        case Tensor():
            name = str(len(tensors))
            tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
            return {TENSOR: name}
        case Mapping():
            return {PAIRS: [[_packed(key, tensors), _packed(value, tensors)] for key, value in tree.items()]}
        case tuple():
            return {TUPLE: [_packed(part, tensors) for part in tree]}
        case list():
            return [_packed(part, tensors) for part in tree]
        case None | bool() | int() | float() | str():
            return tree
    raise TypeError(f"a {type(tree).__name__} cannot be written into a checkpoint")


def _unpacked(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    match form:
        case {"__tensor__": name}:
            return tensors[name]
        case {"__tuple__": parts}:
            return tuple(_unpacked(part, tensors) for part in parts)
        case {"__pairs__": pairs}:
            return {_unpacked(key, tensors): _unpacked(value, tensors) for key, value in pairs}
        case list():
            return [_unpacked(part, tensors) for part in form]
    return form
