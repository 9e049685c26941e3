"""Torch tensors as arguments of the generated C++ kernels, and how many threads work on them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, get_num_threads

from ....runtime.operands import (
    KEYS_ARE_KNOWN,
    PLAIN,
    in_memory,
    keys_of,
    plain_keys,
    unwatched,
)
from .compile import ELEMENTS, NARROW, compiled

Typed = tuple[Tensor, Sequence[int], torch.dtype]

_ENOUGH = 2**14  # entries per thread that make several threads worthwhile
_WIDE = (torch.float32,)


class Source:
    """A file of kernels, compiled for each type at first use; ``narrow`` says that it also has kernels for 16 bits."""

    def __init__(self, path: Path, narrow: bool = False) -> None:
        self._path = path
        self.types = frozenset((*ELEMENTS, *(NARROW if narrow else ())))
        self._made: dict[torch.dtype, Any] = {}

    def on(self, tensor: Tensor) -> Any:
        """Return the kernels for a tensor's type; raises the errors of ``compiled``."""
        found = self._made.get(tensor.dtype)
        if found is None:
            found = self._made[tensor.dtype] = compiled(self._path, tensor.dtype)
        return found

    def ready(
        self, tensors: Sequence[Tensor], shapes: Iterable[Sequence[int]], others: Iterable[Typed] = ()
    ) -> tuple[Any, int] | None:
        """Return the kernels for the type of the first tensor and the number of threads; None unless all can be read.

        Kernels read tensors of the first one's type and of the given shapes, in CPU memory, and ``others``,
        each with its shape and its own type.
        """
        if not suit(tensors, shapes) or (others and not all(_suits(*other) for other in others)):
            return None
        tensor = tensors[0]
        work = tensor.numel()
        threads = 1 if work < 2 * _ENOUGH else min(get_num_threads(), work // _ENOUGH)
        return self._made.get(tensor.dtype) or self.on(tensor), threads

    def narrow(
        self, tensors: Sequence[Tensor], shapes: Sequence[Sequence[int]], wide: int = 0
    ) -> tuple[Any, int] | None:
        """Return the same as ``ready`` for 16-bit tensors, of which the last ``wide`` are float32."""
        split = len(tensors) - wide
        if not suit(tensors[:split], shapes[:split], NARROW):
            return None
        if wide and not suit(tensors[split:], shapes[split:], _WIDE):
            return None
        work = tensors[0].numel()
        return self.on(tensors[0]), 1 if work < 2 * _ENOUGH else min(get_num_threads(), work // _ENOUGH)


def _suits(tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> bool:
    return tensor.is_cpu and in_memory(tensor) and tensor.dtype is dtype and tensor.shape == shape


def suit(tensors: Sequence[Tensor], shapes: Iterable[Sequence[int]], types: Collection[torch.dtype] = ELEMENTS) -> bool:
    """Return whether kernels can read tensors of one of these types and of these shapes, in CPU memory."""
    dtype = tensors[0].dtype
    if dtype not in types or not unwatched():
        return False
    plain = plain_keys("cpu")
    for tensor, shape in zip(tensors, shapes, strict=True):
        if type(tensor) not in PLAIN or tensor.dtype is not dtype or tensor.shape != shape:
            return False
        if KEYS_ARE_KNOWN and keys_of(tensor).raw_repr() not in plain:
            return False
    return True
