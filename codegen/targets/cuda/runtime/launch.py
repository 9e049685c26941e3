"""Torch tensors as arguments of the generated CUDA kernels, and how many threads work on them.

The number of threads depends only on shapes, never on the device, so that equal inputs give equal bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....runtime.operands import check_result, in_memory, readable
from .compile import Code, compiled

_WARP = 32
_SHORT_ROW, _ROWS_A_BLOCK, _LONG_BLOCK = 1024, 4, 256  # one warp per row up to this length, then one block per row
_COLUMN_BLOCK = (32, 8)
_WIDE_PRODUCTS = hasattr(torch.ops.aten.mm, "dtype")  # torch 2.8 and later can return 16-bit products in float32
_LEAST_CHUNK, _MOST_CHUNKS = 256, 512


class Source:
    """A file of kernels, compiled for each type and device at first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: dict[tuple[torch.dtype, torch.device], Kernels] = {}

    def take(self, tensors: Sequence[Tensor], shapes: Iterable[Sequence[int]], column: Tensor | None = None) -> bool:
        """Return whether the kernels can read tensors of one type and device and of these shapes.

        ``column`` (B, 1) holds a wide number for each row of the first.
        """
        if not readable(tensors, shapes):
            return False
        first = tensors[0]
        return column is None or (
            in_memory(column)
            and column.device == first.device
            and column.dtype == torch.promote_types(first.dtype, torch.float32)
            and column.shape == (first.shape[0], 1)
        )

    def on(self, tensor: Tensor) -> Kernels:
        """Return the kernels for a tensor's type and device; raises the errors of ``compiled``."""
        key = (tensor.dtype, tensor.device)
        if key not in self._made:
            self._made[key] = Kernels(compiled(self._path, *key), *key)
        return self._made[key]


class Kernels:
    """The kernels of one source for one element type on one device, and the operations between them.

    ``element`` is the type of the input; wide values are of that type, but at least float32.
    """

    def __init__(self, code: Code, element: torch.dtype, device: torch.device) -> None:
        self._code, self._element, self._device = code, element, device
        self._wide = torch.promote_types(element, torch.float32)

    def column(self, rows: int) -> Tensor:
        """Return memory for one wide number per row (B, 1)."""
        return torch.empty(rows, 1, dtype=self._wide, device=self._device)

    def matrix(self, rows: int, columns: int, wide: bool = False) -> Tensor:
        """Return memory for a matrix (B, n)."""
        return torch.empty(rows, columns, dtype=self._wide if wide else self._element, device=self._device)

    def vector(self, length: int, wide: bool = False) -> Tensor:
        """Return memory for a vector (n)."""
        return torch.empty(length, dtype=self._wide if wide else self._element, device=self._device)

    def over(self, product: Tensor) -> Tensor:
        """Return memory for a matrix of elements: a wide matrix's memory is reused if the types are equal."""
        return product if product.dtype == self._element else torch.empty_like(product, dtype=self._element)

    def product(self, a: Tensor, b: Tensor, wide: bool = False) -> Tensor:
        """Return ``a @ b`` (B, m) of elements, accumulated and, with ``wide``, returned in the wide type."""
        if not wide or self._wide == self._element:
            found, dtype = a @ b, self._element
        elif _WIDE_PRODUCTS:
            found, dtype = torch.mm(a, b, out_dtype=self._wide), self._wide
        else:
            found, dtype = a.to(self._wide) @ b.to(self._wide), self._wide
        return check_result(found, a, (a.shape[0], b.shape[1]), dtype)

    def rows(self, name: str, shape: Sequence[int], *arguments: Tensor | float) -> None:
        """Launch a row kernel. ``shape`` is the number of rows, then the lengths along them; results come last."""
        count, longest = shape[0], max(shape[1:], default=1)
        if count == 0:
            return
        block = (_WARP, _ROWS_A_BLOCK) if longest <= _SHORT_ROW else (_LONG_BLOCK, 1)
        self._launch(name, (_quotient(count, block[1]), 1), block, [*shape, *arguments])

    def columns(self, name: str, shape: Sequence[int], *tensors: Tensor) -> None:
        """Launch a kernel that sums over rows, first in chunks and then over chunks, into the last tensor."""
        *inputs, total = tensors
        width, chunk = total.shape[0], max(_LEAST_CHUNK, _quotient(shape[0], _MOST_CHUNKS))
        tiles, chunks = _quotient(width, _COLUMN_BLOCK[0]), _quotient(shape[0], chunk)
        if width == 0:
            return
        partial = self.matrix(chunks, width, wide=True).view(-1)
        if chunks:
            self._launch(name, (tiles, chunks), _COLUMN_BLOCK, [*shape, *inputs, chunk, partial])
        self._launch(f"{name}_total", (tiles, 1), _COLUMN_BLOCK, [chunks, width, partial, total])

    def launch(self, name: str, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Any]) -> None:
        """Launch a kernel with prepared arguments: addresses as integers, lengths and settings as ctypes values."""
        self._code.launch(name, grid, block, arguments)

    def _launch(self, name: str, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Any]) -> None:
        held = [_unit_stride(a) if isinstance(a, Tensor) else a for a in arguments]  # copies live until the launch
        self._code.launch(name, grid, block, [value for argument in held for value in _passed(argument)])


def _quotient(a: int, b: int) -> int:
    return -(-a // b)


def _unit_stride(tensor: Tensor) -> Tensor:
    """Return the tensor, copied if the entries of a row are not contiguous."""
    return tensor if tensor.shape[-1] <= 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def _passed(argument: Any) -> list[Any]:
    """Return a length, a setting, or a tensor's address and, if it has rows, its row stride."""
    if isinstance(argument, Tensor):
        place = argument.data_ptr()
        return [place] if argument.dim() == 1 else [place, ctypes.c_longlong(argument.stride(0))]
    return [ctypes.c_longlong(argument) if isinstance(argument, int) else ctypes.c_double(argument)]
