"""Torch tensors as arguments of the generated C++ kernels, and how many threads work on them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ._cpp_compile import ELEMENTS, compiled
from ._rows import in_memory

_ENOUGH = 2**14  # numbers for each of several threads


class Source:
    """A file of kernels beside this one, compiled for each type at first use."""

    def __init__(self, name: str) -> None:
        self._path = Path(__file__).with_name(name)
        self._made: dict[torch.dtype, Kernels] = {}

    def on(self, tensor: Tensor) -> Kernels:
        """Return the kernels for a tensor's type; raises what ``compiled`` raises."""
        found = self._made.get(tensor.dtype)
        if found is None:
            found = self._made[tensor.dtype] = Kernels(compiled(self._path, tensor.dtype))
        return found

    def ready(self, tensor: Tensor) -> tuple[Kernels, int] | None:
        """Return the kernels for a tensor and how many threads to take; None for a tensor that they cannot read."""
        if not suits(tensor):
            return None
        work = tensor.numel()
        threads = 1 if work < 2 * _ENOUGH else min(torch.get_num_threads(), work // _ENOUGH)
        return self._made.get(tensor.dtype) or self.on(tensor), threads


class Kernels:
    """The kernels of one source for one type, by their names.

    They take whole numbers as lengths, addresses and distances between rows, floats as settings, and last the number of
    threads. Entries of a row lie side by side.
    """

    def __init__(self, code: ctypes.CDLL) -> None:
        self._code = code

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return a kernel that learns the types of its arguments when it is first called."""
        function = getattr(self._code, name)

        def first(*values: float) -> None:
            kinds = [ctypes.c_double if isinstance(v, float) else ctypes.c_longlong for v in values[:-1]]
            function.argtypes, function.restype = [*kinds, ctypes.c_int], None
            setattr(self, name, function)
            function(*values)

        return first


def suits(tensor: Tensor) -> bool:
    """Return whether kernels can read a tensor: a plain one of a type that they have, at an address of the CPU."""
    return tensor.is_cpu and tensor.dtype in ELEMENTS and in_memory(tensor)
