"""The state of one tensor: its numbers, storage, gradient, and version counter."""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_LARGE = 1 << 14  # above this many numbers a copy costs more than checking who refers to them


class TensorState:
    """The state of one tensor, taken at construction; ``gradient`` is its ``.grad``, which has a separate state.

    Autograd counts in-place changes, and a graph recorded earlier refuses to run if the count has changed; the numbers
    are restored bit for bit, so the count is restored too. A trained parameter whose storage is not shared works on a
    copied storage meanwhile, so that the original comes back without another copy.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._trained, self._version = tensor.requires_grad, None if tensor.is_inference() else tensor._version
        self.gradient = tensor.grad if tensor.is_leaf else None
        self._inside = is_traceable_wrapper_subclass(tensor)  # its numbers are in inner tensors, recorded separately
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
        """The original numbers, in the tensor's layout; None if they are in inner tensors, or repeat (expanded)."""
        place, kept = self._place, self._numbers
        return kept if place is not None and kept is not None and kept.shape == place.shape else None

    def restore(self) -> None:
        """Restore the tensor."""
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
    """Whether only a trained parameter refers to its numbers: no view or storage object does.

    On devices other than the CPU, captured graphs may read them by address.
    """
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_leaf and tensor.requires_grad
    if not plain or tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.numel() < _LARGE:
        return False
    return _holders(tensor) == _one_holder()


def _holders(tensor: Tensor) -> tuple[int, int]:
    """Return the numbers of references to a storage, in Python and in C++."""
    storage = tensor.untyped_storage()
    return sys.getrefcount(storage), torch._C._storage_Use_Count(storage._cdata)


@cache
def _one_holder() -> tuple[int, int]:
    """Return these counts for a storage to which only a parameter refers."""
    return _holders(nn.Parameter(torch.zeros(1)))


def _same_place(one: Tensor, other: Tensor) -> bool:
    if one.layout != torch.strided:
        return True
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride() and one.dtype == other.dtype


def _without_repeats(tensor: Tensor) -> Tensor:
    """Return a view without repeated numbers: an expanded tensor, which has some, cannot be written to."""
    if tensor.layout != torch.strided or 0 not in tensor.stride():
        return tensor
    sizes = [min(n, 1) if step == 0 else n for n, step in zip(tensor.shape, tensor.stride(), strict=True)]
    return tensor.as_strided(sizes, tensor.stride(), tensor.storage_offset())
