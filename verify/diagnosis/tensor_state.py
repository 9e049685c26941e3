"""The state of one tensor: its numbers, the storage they stand in, its gradient, and how often it was changed."""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_LARGE = 1 << 14  # numbers of which a copy costs more than to see who holds them


class TensorState:
    """What one tensor holds, taken when this is made; ``gradient`` is its ``.grad``, which has a state of its own.

    Autograd counts changes made in place, and a graph that was recorded before refuses to run once the count differs;
    since the numbers come back bit for bit, so does the count. A trained parameter whose storage nobody else holds gets
    a copy to stand in meanwhile, so that what was laid aside comes back without a copy.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._trained, self._version = tensor.requires_grad, None if tensor.is_inference() else tensor._version
        self.gradient = tensor.grad if tensor.is_leaf else None
        self._inside = is_traceable_wrapper_subclass(tensor)  # its numbers stand in inner tensors, with own states
        if self._inside or tensor.device.type == "meta":
            self._place = self._numbers = None
        else:
            alone = _stands_alone(tensor)
            self._place = tensor.data
            self._numbers = _without_repeats(self._place).clone()
            if alone and self._numbers.stride() == self._place.stride():
                tensor.data, self._numbers = self._numbers, self._place

    @property
    def numbers(self) -> Tensor | None:
        """The numbers as they were, laid out like the tensor; None where they stand in inner tensors, or repeat."""
        place, kept = self._place, self._numbers
        return kept if place is not None and kept is not None and kept.shape == place.shape else None

    def restore(self) -> None:
        """Write it back."""
        tensor = self._tensor
        if self._place is not None and self._numbers is not None:
            moved = tensor.shape != self._place.shape or not _same_place(tensor, self._place)
            if moved:
                tensor.data = self._place
            if self._numbers is not self._place:
                _without_repeats(self._place).copy_(self._numbers)
        if tensor.is_leaf and tensor.grad is not self.gradient:
            tensor.grad = self.gradient
        if tensor.is_leaf and tensor.requires_grad != self._trained:
            tensor.requires_grad_(self._trained)
        if self._version is not None and tensor._version != self._version:
            torch._C._autograd._unsafe_set_version_counter((tensor,), (self._version,))


def _stands_alone(tensor: Tensor) -> bool:
    """Whether numbers are a trained parameter's alone: no view or storage object leads to them.

    On other devices than the processor recorded graphs may read them by their address.
    """
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_leaf and tensor.requires_grad
    if not plain or tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.numel() < _LARGE:
        return False
    return _holders(tensor) == _one_holder()


def _holders(tensor: Tensor) -> tuple[int, int]:
    """Return how many refer to a storage, in Python and below."""
    storage = tensor.untyped_storage()
    return sys.getrefcount(storage), torch._C._storage_Use_Count(storage._cdata)


@cache
def _one_holder() -> tuple[int, int]:
    """Return these counts for a storage that only a parameter holds."""
    return _holders(nn.Parameter(torch.zeros(1)))


def _same_place(one: Tensor, other: Tensor) -> bool:
    if one.layout != torch.strided:
        return True
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride() and one.dtype == other.dtype


def _without_repeats(tensor: Tensor) -> Tensor:
    """Return a view in which no number stands twice, as it does in an expanded tensor, which cannot be written to."""
    if tensor.layout != torch.strided or 0 not in tensor.stride():
        return tensor
    sizes = [min(n, 1) if step == 0 else n for n, step in zip(tensor.shape, tensor.stride(), strict=True)]
    return tensor.as_strided(sizes, tensor.stride(), tensor.storage_offset())
