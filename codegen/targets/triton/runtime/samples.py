"""Loops over samples in Triton: one program per sample, and memory for the programs' sums.

The number of programs depends only on shapes, so that equal inputs give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ....runtime.operands import in_memory, readable
from .tiles import Tiles, on

Typed = tuple[Tensor, Sequence[int], torch.dtype]

_PROGRAMS = 1024
_NUMBERS = 2**25  # float64 entries of the programs' local memory, in total
_THREADS = 128  # of a program; a tile has one entry per thread


def ready_for(tensors: Sequence[Tensor], shapes: Iterable[Sequence[int]], others: Iterable[Typed] = ()) -> bool | None:
    """Return whether kernels can read all: True, or None.

    They read tensors of the first one's type and device and of the given shapes, and ``others``, each with its shape
    and its own type.
    """
    if not readable(tensors, shapes):
        return None
    device = tensors[0].device
    suit = (in_memory(t) and t.device == device and t.dtype is dtype and t.shape == shape for t, shape, dtype in others)
    return True if all(suit) else None


def walk(
    kernel: Any,
    lengths: Sequence[int],
    tensors: Sequence[Tensor],
    constants: Sequence[float],
    inner: Sequence[int],
    totals: Sequence[Sequence[int]],
) -> tuple[Tensor, ...]:
    """Launch a kernel that loops over samples, and return its sums over them, in float64.

    Args:
        kernel: the kernel.
        lengths: the number of samples, then the lengths of axes that the kernel takes.
        tensors: the contiguous tensors that it reads, then those that it writes.
        constants: the numbers that its lines use.
        inner: the sizes of each program's local values.
        totals: the shapes of the sums over samples.
    """
    sizes = [*inner, *(math.prod(shape) for shape in totals)]
    programs = max(1, min(lengths[0], _PROGRAMS, _NUMBERS // max(1, sum(sizes))))
    first = tensors[0]
    memory = [torch.zeros(programs, max(1, size), dtype=torch.float64, device=first.device) for size in sizes]
    if lengths[0]:
        with on(first):
            settings = Tiles(0, 0, 0).settings
            kernel[(programs,)](*lengths, *tensors, *memory, *constants, THREADS=_THREADS, **settings)
    found = memory[len(inner) :]
    return tuple(m.sum(0)[: math.prod(shape)].view(*shape) for m, shape in zip(found, totals, strict=True))
