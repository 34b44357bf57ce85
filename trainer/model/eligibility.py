"""Says which layers of a model may move, by looking at its parameters and its optimizer, without a forward pass."""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from trainer.model.wrappers import class_name, optimizers, owning, owns_weights, unwrap, unwrap_optimizer
from trainer.restoring.own_code import is_own

Linear = nn.Linear | nn.Conv2d
UNMADE = (UninitializedParameter, UninitializedBuffer)
SHARDING = frozenset({"FullyShardedDataParallel", "FSDPModule", "FlatParameter", "DTensor", "ShardedTensor"})
"""Classes of modules and parameters that hold only a part of the weights, by name: importing them may be costly."""
ANOTHER = "choose another layer"


@dataclass(frozen=True)
class Eligibility:
    """Whether a linear layer may move; `why` is None if so, else the reason and the cure in one sentence.

    `inputs` and `units` are the sizes of its weight matrix [units, inputs]; 0 where they are not known yet.
    """

    name: str
    kind: str
    units: int
    inputs: int
    why: str | None


def eligible(model: nn.Module, optimizer: Optimizer) -> dict[str, Eligibility]:
    """Every nn.Linear and nn.Conv2d of a model, by its name in the unwrapped model, and whether it may move.

    A convolution passes if it is linear at one place (1 x 1), or would be if its kernel covered its whole input: which
    it is, is seen in a forward pass. `model` and `optimizer` may be wrapped. Raises OptimizerError.
    """
    model = unwrap(model)
    held = {id(part) for group in unwrap_optimizer(optimizer).param_groups for part in group["params"]}
    whole = _refuses_all(model, optimizer, held)
    shared = _shared(model)
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            why = whole or _why_not(module) or _why_not_owned(name, module, held, shared)
            found[name] = Eligibility(name, kind_of(module), *_shape(module), why)
    return found


def kind_of(module: nn.Module) -> str:
    """A layer's class, and a convolution's kernel: `Linear`, `Conv2d 1x1`."""
    name = type(module).__name__.removeprefix("Parametrized")
    return f"{name} {'x'.join(map(str, module.kernel_size))}" if isinstance(module, nn.Conv2d) else name


# --- the model and the optimizer as a whole ---------------------------------------------------------------------------


def _refuses_all(model: nn.Module, optimizer: object, held: set[int]) -> str | None:
    """Why none of the layers may move, or None."""
    for layer in optimizers(optimizer):
        if owns_weights(layer):
            return owning(layer)
    if any(SHARDING & _class_names(module) for module in model.modules()):
        return "the model is sharded, so that no process has a whole layer; for now, train it unsharded on one device"
    parameters = list(model.parameters())
    if parameters and not any(id(part) in held for part in parameters):
        return (
            "the optimizer holds none of the model's parameters; make it from this model's parameters "
            "after the model is in its final place and type"
        )
    return None


# --- a layer by itself ------------------------------------------------------------------------------------------------


def _why_not(module: Linear) -> str | None:
    """What is odd about a layer's parameters or class, or None."""
    if is_parametrized(module):
        cure = "torch.nn.utils.parametrize.remove_parametrizations"
        return f"it is parametrized; make that final with {cure}, or {ANOTHER}"
    if "weight" not in module._parameters:
        return (
            "its weight is recomputed from other parameters (weight_norm, spectral_norm or pruning); make that final "
            f"with torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove, or {ANOTHER}"
        )
    for part, parameter in module.named_parameters(recurse=False):
        if why := _why_not_plain(part, parameter) or _why_not_hooked(part, parameter):
            return why
    return _why_not_class(module) or (_why_not_convolution(module) if isinstance(module, nn.Conv2d) else None)


def _why_not_plain(part: str, parameter: nn.Parameter) -> str | None:
    """Why a parameter is not simply an array of numbers, or None."""
    if isinstance(parameter, UNMADE):
        return "it has no shape yet; run one batch through the model before the Tunneller is made"
    if SHARDING & _class_names(parameter) or hasattr(parameter, "ds_id") or hasattr(parameter, "_is_flat_param"):
        return f"its {part} is sharded (FSDP, DTensor or DeepSpeed); for now, train it unsharded on one device"
    if parameter.is_meta:
        return f"its {part} is on the meta device and has no values; load the weights first"
    return _why_not_numbers(part, parameter)


def _why_not_numbers(part: str, parameter: nn.Parameter) -> str | None:
    """Why a parameter's values are not floating-point numbers that can be read and written one by one, or None."""
    if hasattr(parameter, "quant_state") or parameter.is_quantized or parameter.element_size() == 1:
        return f"its {part} is quantized ({_dtype(parameter)}); tunnel the model before it is quantized, or {ANOTHER}"
    if not parameter.is_floating_point():
        return f"its {part} is of type {_dtype(parameter)}; use float32, float64, float16 or bfloat16"
    if type(parameter) is not nn.Parameter:
        return f"its {part} is a {class_name(parameter)}, not a plain nn.Parameter; {ANOTHER}"
    return None


def _why_not_hooked(part: str, parameter: nn.Parameter) -> str | None:
    """Why a parameter's gradient may leave some of its values where they are, or None.

    Hooks of libraries look on, as wandb's do. Those of torch itself are products with a mask.
    """
    if not any(is_own(_home(hook), ("torch",)) for hook in (parameter._backward_hooks or {}).values()):
        return None
    return (
        f"its {part} has a gradient hook (register_hook), which may hold some of its values in place; if it only clips "
        f"or looks on, use register_post_accumulate_grad_hook instead, or {ANOTHER}"
    )


def _home(hook: object) -> str | None:
    """The module that a hook's code is in."""
    while isinstance(hook, partial):
        hook = hook.func
    found = getattr(hook, "__module__", None)  # of an object its class's
    return found if isinstance(found, str) else None


def _why_not_class(module: Linear) -> str | None:
    """Why a layer's class computes something else than weight times input plus bias, or None."""
    base = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
    if type(module).__name__ == "NonDynamicallyQuantizableLinear":
        return f"nn.MultiheadAttention uses its weights without calling it; {ANOTHER}"
    if type(module).forward is not base.forward:
        return (
            f"its class {class_name(module)} has a forward() of its own, so that it need not be linear; "
            f"use a plain nn.{base.__name__}, or {ANOTHER}"
        )
    return None


def _why_not_convolution(module: nn.Conv2d) -> str | None:
    """Why a convolution is not linear at one place, or None."""
    if module.groups > 1:
        return f"a convolution in groups has blocks of zeros that would be filled; use groups=1, or {ANOTHER}"
    padding = module.padding if isinstance(module.padding, tuple) else (module.padding != "valid",)
    if any(padding) and module.kernel_size != (1, 1):
        return "a padded convolution shares its weights among overlapping places; " + ANOTHER
    if any(padding):
        return f"a 1 x 1 convolution with padding puts out places that have no input; use padding=0, or {ANOTHER}"
    return None


# --- a layer among others ---------------------------------------------------------------------------------------------


def _why_not_owned(name: str, module: Linear, held: set[int], shared: dict[str, list[str]]) -> str | None:
    """Why a layer's parameters belong to somebody else or to nobody, or None."""
    for part, parameter in module.named_parameters(recurse=False):
        full = f"{name}.{part}" if name else part
        if not parameter.requires_grad:
            return f"its {part} is frozen (requires_grad is False); unfreeze it, or {ANOTHER}"
        if id(parameter) not in held:
            return _why_not_held(part, module, held)
        if others := shared.get(full):
            return f"its {part} is tied to {', '.join(others)}, which would move, too; untie them, or {ANOTHER}"
    return None


def _why_not_held(part: str, module: Linear, held: set[int]) -> str:
    """What to do where the optimizer has none of a layer's parameters, or some of them."""
    why = f"the optimizer does not hold its {part}; add it to the optimizer's parameters"
    if any(id(other) in held for other in module.parameters(recurse=False)):
        why += ", or if another one does, as AdamW beside Muon, let one hold both and give that one"
    return f"{why}, or {ANOTHER}"


def _shared(model: nn.Module) -> dict[str, list[str]]:
    """For each parameter name whose memory another name reaches, too, those other names.

    Neighbours in one flat buffer do not overlap and are no sharing; nor are two names of one module.
    """
    spans: defaultdict[torch.device, list[tuple[int, int, str]]] = defaultdict(list)
    parameters = [
        (f"{prefix}.{part}" if prefix else part, parameter)
        for prefix, module in model.named_modules()
        for part, parameter in module._parameters.items()
        if parameter is not None
    ]
    for name, tensor in [*parameters, *model.named_buffers()]:
        if (span := _span(tensor)) is not None:
            spans[tensor.device].append((*span, name))
    groups: list[set[str]] = []
    for found in spans.values():
        reached = 0
        for start, end, name in sorted(found):
            if start >= reached:
                groups.append(set())
            groups[-1].add(name)
            reached = max(reached, end)
    return {name: sorted(names - {name}) for names in groups for name in names if len(names) > 1}


def _span(tensor: Tensor) -> tuple[int, int] | None:
    """First byte of a tensor's values and the one behind its last; None if it has no memory that could be shared."""
    if isinstance(tensor, UNMADE) or tensor.is_meta or tensor.layout != torch.strided or tensor.numel() == 0:
        return None
    try:
        start = tensor.data_ptr()
    except RuntimeError:  # a tensor subclass without storage of its own
        return None
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (start, start + (last + 1) * tensor.element_size()) if start else None


def _shape(module: Linear) -> tuple[int, int]:
    """Units and inputs of a layer, by its own declaration: its weight may be sharded, packed or not there yet."""
    if isinstance(module, nn.Linear):
        return int(module.out_features), int(module.in_features)
    rows, columns = module.kernel_size
    return int(module.out_channels), int(module.in_channels // module.groups * rows * columns)


def _class_names(value: object) -> set[str]:
    return {kind.__name__ for kind in type(value).__mro__}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
