"""A parameter's memory and what is in it: both are put back, whatever a pass or a validation made of the parameter."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, UntypedStorage, nn
from torch.nn.parameter import is_lazy

from trainer.restoring.modules import modules_of, parameters_of

Place = tuple[torch.dtype, torch.device, torch.Size, tuple[int, ...], int]
PLAIN = (Tensor, nn.Parameter)


@dataclass(frozen=True, eq=False)
class Held:
    """A parameter, the memory that it had, and a copy of the values there, or None where only the memory counts.

    `parameter.data = ...` gives a parameter other memory, as does a model's `double()`, and neither autograd nor the
    parameter's version hears of it. What the old memory holds is then as it was: a float32 weight that has been to
    float16 and back has all of its digits again once it has its memory again.
    """

    parameter: Tensor
    place: Place | None
    kept: tuple[UntypedStorage, int] | Tensor
    content: Tensor | None = None

    @classmethod
    def of(cls, parameter: Tensor, *, content: bool = False) -> "Held":
        """As the parameter is now, with a copy of its values if `content`."""
        place, storage = _place(parameter), _storage(parameter)
        kept = parameter.data if storage is None or place is None else storage
        return cls(parameter, place, kept, parameter.data.clone() if content else None)

    @property
    def moved(self) -> bool:
        """Whether the parameter has other memory by now."""
        return _place(self.parameter) != self.place

    @property
    def changed(self) -> bool:
        """Whether the memory holds other values by now: `parameter.data.clamp_()` is not in the parameter's version."""
        if self.content is None or self.content.is_meta or self.place is None:
            return False
        try:
            return not torch.equal(self._memory(), self.content)
        except RuntimeError:  # a type that cannot be compared
            return False

    def put_back(self) -> None:
        """The memory, and what was in it, bit by bit; unnoticed by autograd."""
        if self.moved:
            self.parameter.data = self._memory()
        if self.content is not None:
            self._memory().copy_(self.content)

    def _memory(self) -> Tensor:
        """The memory that the parameter had, as a tensor."""
        if not self.moved:
            return self.parameter.data
        if isinstance(self.kept, Tensor):
            return self.kept
        assert self.place is not None
        storage, offset = self.kept
        dtype, device, shape, stride, _ = self.place
        with torch.inference_mode(False):
            return torch.empty(0, dtype=dtype, device=device).set_(storage, offset, shape, stride)


@contextmanager
def memory_kept(model: nn.Module) -> Iterator[None]:
    """Give all parameters of a model their own memory back; nothing is copied. What does not exist yet is left out."""
    before = [Held.of(one) for one in parameters_of(modules_of(model)) if not is_lazy(one)]
    try:
        yield
    finally:
        for held in before:
            held.put_back()


def _place(tensor: Tensor) -> Place | None:
    """Where a tensor's values are and how they lie there; None of one that has no memory of its own."""
    try:
        return tensor.dtype, tensor.device, tensor.shape, tensor.stride(), tensor.data_ptr()
    except (RuntimeError, ValueError):  # sparse, lazy and some subclasses
        return None


def _storage(tensor: Tensor) -> tuple[UntypedStorage, int] | None:
    """The memory itself, and where in it a tensor begins; None of a tensor that is more than that."""
    if type(tensor) not in PLAIN or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return None
    return tensor.untyped_storage(), int(tensor.storage_offset())
