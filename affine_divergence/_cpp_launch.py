"""Torch tensors as arguments of the generated C++ kernels, and how many threads work on them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ._cpp_compile import ELEMENTS, compiled

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


class Kernels:
    """The kernels of one source for one type."""

    def __init__(self, code: ctypes.CDLL) -> None:
        self._code = code
        self._functions: dict[str, Callable[..., None]] = {}

    def run(self, name: str, lengths: Sequence[int], *arguments: Tensor | float) -> None:
        """Run a kernel. ``lengths`` are the number of rows, then those along them; of the arguments results come last."""
        values: list[float] = [*lengths]
        held = []  # copies live until the kernel has run
        for argument in arguments:
            if isinstance(argument, float):
                values.append(argument)
                continue
            steps = argument.stride()
            if steps[-1] != 1:
                argument = argument.contiguous()
                held.append(argument)
                steps = argument.stride()
            values.append(argument.data_ptr())
            values += steps[:-1]
        work = lengths[0] * lengths[-1]
        values.append(1 if work < 2 * _ENOUGH else min(torch.get_num_threads(), work // _ENOUGH))
        self.call(name, *values)

    def call(self, name: str, *values: float) -> None:
        """Run a kernel with whole numbers as lengths and addresses, others as settings, and the number of threads last."""
        (self._functions.get(name) or self._typed(name, values))(*values)

    def _typed(self, name: str, values: Sequence[float]) -> Callable[..., None]:
        """Return a kernel that takes whole numbers as lengths and addresses, others as settings, then the threads."""
        function = getattr(self._code, name)
        kinds = [ctypes.c_double if isinstance(v, float) else ctypes.c_longlong for v in values[:-1]]
        function.argtypes, function.restype = [*kinds, ctypes.c_int], None
        self._functions[name] = function
        return function  # type: ignore[no-any-return]


def suits(tensor: Tensor) -> bool:
    """Return whether kernels can read a tensor: a plain one of a type that they have, at an address of the CPU."""
    if tensor.dtype not in ELEMENTS or not tensor.is_cpu or type(tensor) not in (Tensor, torch.nn.Parameter):
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:  # none that ``torch.vmap`` maps over
        return False
    return True
