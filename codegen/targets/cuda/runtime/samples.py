"""Loops over samples on a CUDA device: one block of threads per sample, and memory for the blocks' sums.

The numbers of blocks and threads depend only on shapes, so that equal inputs give equal bits.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ....runtime.operands import in_memory
from . import launch
from .compile import ELEMENTS
from .launch import Kernels

Typed = tuple[Tensor, Sequence[int], torch.dtype]

_BLOCKS = 1024
_NUMBERS = 2**25  # float64 entries of the blocks' local memory, in total
_LEAST, _MOST = 32, 256  # threads of a block


class Source(launch.Source):
    """A file of kernels, compiled for each type and device at first use."""

    def ready(
        self, tensors: Sequence[Tensor], shapes: Iterable[Sequence[int]], others: Iterable[Typed] = ()
    ) -> Kernels | None:
        """Return the kernels for the type of the first tensor; None unless they can read all.

        They read tensors of the first one's type and device and of the given shapes, and ``others``, each with its
        shape and its own type.
        """
        first = tensors[0]
        if first.dtype not in ELEMENTS or not self.take(tensors, shapes):
            return None
        suit = (
            in_memory(t) and t.device == first.device and t.dtype is dtype and t.shape == shape
            for t, shape, dtype in others
        )
        return self.on(first) if all(suit) else None


def walk(
    kernels: Kernels,
    name: str,
    span: int,
    lengths: Sequence[int],
    tensors: Sequence[Tensor],
    scalars: Sequence[float],
    inner: Sequence[int],
    totals: Sequence[Sequence[int]],
) -> tuple[Tensor, ...]:
    """Launch a kernel that loops over samples, and return its sums over them, in float64.

    Args:
        kernels: the kernels of a source.
        name: the kernel's name.
        span: the largest number of entries that the threads of a block share.
        lengths: the number of samples, then the lengths of axes that the kernel takes.
        tensors: the contiguous tensors that it reads, then those that it writes.
        scalars: its settings.
        inner: the sizes of each block's local values.
        totals: the shapes of the sums over samples.
    """
    sizes = [*inner, *(math.prod(shape) for shape in totals)]
    blocks = max(1, min(lengths[0], _BLOCKS, _NUMBERS // max(1, sum(sizes))))
    first = tensors[0]
    memory = [torch.zeros(blocks, size, dtype=torch.float64, device=first.device) for size in sizes]
    threads = min(_MOST, max(_LEAST, 1 << max(0, span - 1).bit_length()))
    if lengths[0]:
        arguments = [
            *(ctypes.c_longlong(length) for length in lengths),
            *(t.data_ptr() for t in tensors),
            *(ctypes.c_double(scalar) for scalar in scalars),
            *(m.data_ptr() for m in memory),
        ]
        kernels.launch(name, (blocks, 1), (threads, 1), arguments)
    found = memory[len(inner) :]
    return tuple(m.sum(0).view(*shape) for m, shape in zip(found, totals, strict=True))
