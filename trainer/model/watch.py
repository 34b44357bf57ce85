"""Watches passes of the live model: what its layers take in and put out, copied where it happens."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shared.snapshot import FloatArray
from trainer.errors import DataError, PartError, interrupts
from trainer.model.blocks import Linear, applied_at, linear_layer, put_out
from trainer.model.live import device_of
from trainer.samples.batches import Batch
from trainer.samples.heads import per_position
from trainer.samples.outputs import Path, by_rows, tensor_at
from trainer.samples.positions import BATCH, Choose, Reader
from trainer.samples.reservoir import Rows

MOST_BYTES = 8_000_000
"""Of what any one module puts out for a batch of rows: a large model gets fewer rows at once."""
FEW = 8
"""Positions that tell one way to read an output from another."""


@dataclass(frozen=True)
class Call:
    """One call of a leaf module: of linear layers also the positions [P, d] -> [P, h] they were applied at.

    `order` [few, h] is the order of the units' values at the first few positions, `nbytes` the size of the output.
    """

    name: str
    module: nn.Module
    positions: int = 0
    taken_in: int = 0
    put_out: int = 0
    dtype: torch.dtype = torch.float32
    order: Tensor | None = None
    nbytes: int = 0


@dataclass(frozen=True, eq=False)
class Recording:
    """What was seen at chosen positions, P in all: where they come from, and the matrices [P, ...] there.

    `row` are row numbers, `place` positions within a row, `taken_in` and `put_out` by layer, `output` the model's own.
    """

    row: NDArray[np.int64]
    place: NDArray[np.int64]
    taken_in: Mapping[str, FloatArray]
    put_out: Mapping[str, FloatArray]
    output: FloatArray
    targets: Tensor
    weights: Tensor | None
    groups: Tensor | None
    rows: int
    seconds: float

    @property
    def key(self) -> NDArray[np.int64]:
        """A number for each position that tells it from all others."""
        return key_of(self.row, self.place)


def key_of(row: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each position, by its row and its place in it."""
    return row * (1 << 32) + place


@dataclass
class _Parts:
    row: list[NDArray[np.int64]] = field(default_factory=list)
    place: list[NDArray[np.int64]] = field(default_factory=list)
    taken_in: dict[str, list[FloatArray]] = field(default_factory=dict)
    put_out: dict[str, list[FloatArray]] = field(default_factory=dict)
    output: list[FloatArray] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    weights: list[Tensor | None] = field(default_factory=list)
    groups: list[Tensor | None] = field(default_factory=list)


def run(model: nn.Module, batch: Batch) -> Any:
    """All that the model puts out; PartError if it cannot be run on the batch."""
    try:
        return model(*batch.args, **batch.kwargs)
    except Exception as error:  # the user's own code may raise anything
        if interrupts(error):
            raise
        raise PartError(
            f"the model cannot be run on the batches as they were observed ({type(error).__name__}: {error}); observe "
            "what the model itself is given, or say how a batch splits with `split`"
        ) from error


def forward(model: nn.Module, batch: Batch, path: Path | None = None) -> Tensor:
    """The tensor at a path of what the model puts out, or the first, with a leading dimension for rows.

    Raises as `run` does, or DataError where there is no such tensor.
    """
    return by_rows(tensor_at(run(model, batch), path), batch.samples)


def makers(model: nn.Module, batch: Batch, paths: Sequence[Path]) -> list[frozenset[int]]:
    """The trainable parameters, by their ids, that the tensors at some paths of an output come from: one pass."""
    with torch.enable_grad():
        output = run(model, batch)
        return [frozenset(_parameters_behind(tensor_at(output, path).grad_fn)) for path in paths]


def _parameters_behind(node: Any) -> Iterator[int]:
    """The parameters from which a graph of autograd's begins."""
    left, known = [node], {None}
    while left:
        if (node := left.pop()) in known:
            continue
        known.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            yield id(variable)
        left.extend(before for before, _ in node.next_functions)


def scout(model: nn.Module, batch: Batch) -> tuple[list[Call], Any]:
    """One pass to see which leaf modules are called, in which order and at how many positions, and all it puts out."""
    calls: list[Call] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls.append(_call(leaves[module], module, args, output))

    leaves = {
        module: name
        for name, module in model.named_modules()
        if (isinstance(module, Linear) or not any(child is not None for child in module._modules.values()))
        and not isinstance(module, torch.jit.ScriptModule)  # takes no hooks
    }
    number = RemovableHandle(OrderedDict()).id  # one for all, of thousands as well
    for module in leaves:
        module._forward_hooks[number] = note
    try:
        return calls, run(model, batch)
    finally:
        for module in leaves:
            module._forward_hooks.pop(number, None)


def _call(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Call:
    size = output.numel() * output.element_size() if isinstance(output, Tensor) else 0
    if not isinstance(module, Linear) or not isinstance(output, Tensor):
        return Call(name, module, nbytes=size)
    made = put_out(module, output)
    taken = applied_at(module, args[0]) if args and isinstance(args[0], Tensor) else None
    # a convolution that is neither of size 1 nor as large as its input shares weights between places: no positions
    positions = 0 if taken is None or len(taken) != len(made) else len(made)
    width = 0 if taken is None else taken.shape[1]
    return Call(name, module, positions, width, made.shape[1], output.dtype, order_of(made), size)


def order_of(matrix: Tensor) -> Tensor:
    """The order of the values at the first few positions: the same before and behind a softmax or an activation."""
    return matrix[:FEW].float().argsort(dim=1)


def rows_at_once(calls: Sequence[Call], output: Tensor, rows: int, most_bytes: int = MOST_BYTES) -> int:
    """How many rows to run at once, by what the modules put out for so many."""
    largest = max([output.numel() * output.element_size(), *(call.nbytes for call in calls)])
    return int(min(BATCH, max(1, most_bytes * rows // max(1, largest))))


class Watcher:
    """Runs rows through the live model, and records chosen layers at chosen positions."""

    def __init__(self, model: nn.Module, reader: Reader) -> None:
        self._model, self._reader = model, reader
        self._layers: dict[str, Linear] = {}

    def _linear(self, name: str) -> Linear:
        if name not in self._layers:
            self._layers[name] = linear_layer(self._model, name)
        return self._layers[name]

    def run(
        self,
        rows: Rows,
        choose: Choose,
        *,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        until: Callable[[int, float], bool] = lambda rows, seconds: False,
        batch: int = BATCH,
    ) -> Recording:
        """Record what `inputs` take in and `outputs` put out; end early once `until(rows, seconds)` is true."""
        parts, begun, count = _Parts(), time.perf_counter(), 0
        for numbers, data in rows.batches(min(batch, self._reader.batch), device_of(self._model)):
            if count and until(count, time.perf_counter() - begun):
                break
            self._add(parts, numbers, data, choose, inputs, outputs)
            count += len(numbers)
        return _joined(parts, count, time.perf_counter() - begun)

    def _add(
        self,
        parts: _Parts,
        numbers: NDArray[np.int64],
        data: Batch,
        choose: Choose,
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        view, targets = self._reader.view, self._reader.aligned(data.targets)
        positions = self._reader.positions(targets)
        per_row = max(1, positions // len(numbers))
        chosen = choose(numbers, per_row, self._reader.counting(targets))
        at = torch.from_numpy(chosen).to(device_of(self._model))
        with self._recording(parts, at, positions, inputs, outputs):
            output = view.matrix(forward(self._model, data, self._reader.path))
        if len(output) != positions:
            raise PartError(f"the model puts out {len(output)} positions for {positions} targets")
        parts.output.append(_on_host(output, at))
        parts.row.append(numbers[chosen // per_row])
        parts.place.append(chosen % per_row)
        parts.targets.append(view.targets(targets, positions)[at.to(targets.device)].cpu())
        weights = per_position(data.weights, positions, "weights")
        parts.weights.append(None if weights is None else weights[at.to(weights.device)].float().cpu())
        groups = per_position(data.groups, positions, "groups")
        parts.groups.append(None if groups is None else groups[at.to(groups.device)].cpu())

    @contextmanager
    def _recording(
        self, parts: _Parts, at: Tensor, positions: int, inputs: Sequence[str], outputs: Sequence[str]
    ) -> Iterator[None]:
        """Hooks that copy rows at once: an in-place operation behind a layer overwrites what the layer put out."""

        def before(name: str) -> Any:
            def hook(module: Linear, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                value = args[0] if args else kwargs.get("input")
                matrix = applied_at(module, value) if isinstance(value, Tensor) else None
                if matrix is not None and len(matrix) == positions:
                    parts.taken_in.setdefault(name, []).append(_on_host(matrix, at))

            return hook

        def behind(name: str) -> Any:
            def hook(module: Linear, args: tuple[Any, ...], output: Any) -> None:
                if isinstance(output, Tensor) and len(matrix := put_out(module, output)) == positions:
                    parts.put_out.setdefault(name, []).append(_on_host(matrix, at))

            return hook

        handles = [self._linear(name).register_forward_pre_hook(before(name), with_kwargs=True) for name in inputs]
        handles += [self._linear(name).register_forward_hook(behind(name)) for name in outputs]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _on_host(matrix: Tensor, at: Tensor) -> FloatArray:
    return np.asarray(matrix.detach()[at.to(matrix.device)].float().cpu().numpy())


def _joined(parts: _Parts, rows: int, seconds: float) -> Recording:
    count = len(parts.row)
    return Recording(
        row=np.concatenate(parts.row),
        place=np.concatenate(parts.place),
        taken_in={name: np.concatenate(part) for name, part in parts.taken_in.items() if len(part) == count},
        put_out={name: np.concatenate(part) for name, part in parts.put_out.items() if len(part) == count},
        output=np.concatenate(parts.output),
        targets=torch.cat(parts.targets),
        weights=_weights(parts),
        groups=_groups(parts),
        rows=rows,
        seconds=seconds,
    )


def _weights(parts: _Parts) -> Tensor | None:
    """Those of all positions: 1 where a batch brings none but others do."""
    if all(weights is None for weights in parts.weights):
        return None
    pairs = zip(parts.weights, parts.row, strict=True)
    found = [torch.ones(len(row), dtype=torch.float32) if weights is None else weights for weights, row in pairs]
    return torch.cat(found)


def _groups(parts: _Parts) -> Tensor | None:
    """Those of all positions; DataError where a batch brings none but others do."""
    known = [groups for groups in parts.groups if groups is not None]
    if known and len(known) < len(parts.groups):
        raise DataError("some batches have groups and some have none; let `split` give groups of each")
    return torch.cat(known) if known else None
