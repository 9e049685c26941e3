"""What the Triton kernels share: tiles of matrices in memory, and the choice of their sizes.

Offsets are 64-bit. Tile sizes depend only on shapes, types and the device, never on a timing, so that equal inputs give
equal bits in every run.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

WHOLE_ROW = 2048  # rows of at most this many bytes (float32 or wider) are one tile
_PRODUCT_TILES = {  # by the bytes of an entry: height, width, warps, stages, relative speed
    2: [(128, 256, 8, 3, 1.0), (128, 128, 8, 3, 0.9), (64, 128, 4, 3, 0.75), (64, 64, 4, 4, 0.6), (32, 32, 4, 4, 0.3)],
    4: [(64, 128, 8, 3, 1.0), (64, 64, 4, 3, 0.9), (32, 32, 4, 3, 0.4)],
    8: [(64, 64, 4, 2, 1.0), (32, 32, 4, 2, 0.6)],
}
_SETTINGS = {"enable_fp_fusion": True}  # explicit, since the default differs between versions of Triton


@triton.jit
def load(pointer, rows, columns, row_stride, column_stride, row_end, column_end):
    """Return a tile of a matrix, zero beyond its ends."""
    at = pointer + rows.to(tl.int64)[:, None] * row_stride + columns.to(tl.int64)[None, :] * column_stride
    return tl.load(at, mask=(rows < row_end)[:, None] & (columns < column_end)[None, :], other=0.0)


INTERPRETED = tl.constexpr(not isinstance(load, triton.JITFunction))  # TRITON_INTERPRET=1: NumPy, on the CPU


def _take_one_entry_for_a_number() -> None:
    """Let loops in Triton 3.6's interpreter end at a one-entry array, which NumPy 2.5 and later refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_too(tensor, scope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_too


if INTERPRETED.value and triton.__version__.startswith("3.6."):
    _take_one_entry_for_a_number()


@triton.jit
def load_row(pointer, positions, stride, end):
    """Return a piece of a vector, zero beyond its end."""
    return tl.load(pointer + positions.to(tl.int64) * stride, mask=positions < end, other=0.0)


@triton.jit
def store(pointer, tile, rows, columns, row_stride, row_end, column_end):
    """Store a tile of a matrix whose rows are contiguous."""
    at = pointer + rows.to(tl.int64)[:, None] * row_stride + columns[None, :]
    tl.store(at, tile, mask=(rows < row_end)[:, None] & (columns < column_end)[None, :])


@triton.jit
def dot(left, right, so_far, PRECISION: tl.constexpr):
    """Return ``so_far`` plus the product of two tiles, in the type of ``so_far``."""
    if INTERPRETED:  # Triton's interpreter multiplies the bits of bfloat16
        left, right = left.to(so_far.dtype), right.to(so_far.dtype)
    return tl.dot(left, right, so_far, input_precision=PRECISION, out_dtype=so_far.dtype)


@triton.jit
def unit_of(peak, FLOOR: tl.constexpr, WIDE: tl.constexpr):
    """Return the unit of each row, a power of two: FLOOR for rows so large that products would overflow."""
    one = tl.full(peak.shape, 1.0, WIDE)
    return tl.where(peak > 1 / FLOOR, one * FLOOR, one)


@triton.jit
def unit_between(scale_in_units, scale, FLOOR: tl.constexpr, WIDE: tl.constexpr):
    """Return the same from the scale of each row in its unit, and the plain scale."""
    one = tl.full(scale.shape, 1.0, WIDE)
    return tl.where(scale_in_units > scale, one * FLOOR, one)


@triton.jit
def end_of_near(unit, end):
    """Return ``end`` if all rows have the unit one, else zero: the end of the loop over columns for such rows."""
    return tl.where(tl.min(unit, axis=0) < 1, 0, end)


@triton.jit
def in_units(tile, unit):
    """Return a tile of rows, each in its unit."""
    return (tile.to(unit.dtype) * unit[:, None]).to(tile.dtype)


@triton.jit
def tile_at(tiles_down, tiles_across, GROUP: tl.constexpr):
    """Return this program's tile: GROUP tiles down, then the next across, so that concurrent tiles share operands."""
    position = tl.program_id(0)
    group = position // (GROUP * tiles_across)
    height = min(tiles_down - group * GROUP, GROUP)
    inside = position - group * GROUP * tiles_across
    return group * GROUP + inside % height, inside // height


class Limits(NamedTuple):
    """A device's number of multiprocessors, bytes of shared memory per block, and bytes of shared cache."""

    processors: int
    shared: int
    cache: int


class Tiles(NamedTuple):
    """The sizes of a kernel's tiles, and its numbers of warps and of pipeline stages."""

    down: int
    across: int
    inside: int
    warps: int = 4
    stages: int = 1

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The three sizes."""
        return self.down, self.across, self.inside

    @property
    def settings(self) -> dict[str, Any]:
        """The launch settings."""
        return {} if INTERPRETED.value else {**_SETTINGS, "num_warps": self.warps, "num_stages": self.stages}


@functools.cache
def limits(device: torch.device) -> Limits:
    """Return a device's limits; for the interpreter, limits that cut small matrices into several tiles."""
    if device.type != "cuda":
        return Limits(4, 1 << 16, 1 << 10)
    found = torch.cuda.get_device_properties(device)
    shared = getattr(found, "shared_memory_per_block_optin", 1 << 16)
    return Limits(found.multi_processor_count, shared, found.L2_cache_size)


@functools.lru_cache(maxsize=4096)
def product_tiles(down: int, across: int, itemsize: int, device: torch.device, length: int = 0) -> Tiles:
    """Return tiles for a matrix product: large ones are faster, if they fit and few processors are idle.

    A product that sums over a ``length`` may be cut along it (see ``cut``), so that few tiles need not leave many idle.
    """
    processors, shared, _ = limits(device)
    inside = max(16, 128 // itemsize)
    if length and itemsize == 4:  # strided samples load as fast in a thin slice, and 32 would not fit the registers
        inside = 16
    best, best_score = Tiles(16, 16, inside, 1, 2), 0.0
    for height, width, warps, stages, speed in _PRODUCT_TILES[itemsize]:
        tiles = triton.cdiv(down, height) * triton.cdiv(across, width)
        tiles *= cut(length, inside, tiles, device)[1]
        score = speed * tiles / (triton.cdiv(tiles, processors) * processors)
        if (height + width) * inside * itemsize * stages <= shared and score > best_score:
            best, best_score = Tiles(clipped(height, down), clipped(width, across), inside, warps, stages), score
    return best


@functools.lru_cache(maxsize=4096)
def whole_row_tiles(down: int, row: int, across: int, itemsize: int, device: torch.device) -> Tiles:
    """Return tiles for a product with a whole row on one side, of as many rows as shared memory holds."""
    shared, whole = limits(device).shared, clipped(WHOLE_ROW // max(itemsize, 4), row)
    height, width = min(clipped(64, down), (1 << 14) // whole), clipped(128 // itemsize, across)
    while (height * whole + 2 * whole * width + height * width) * itemsize > shared and max(height, width) > 16:
        height, width = (height // 2, width) if height > width else (height, width // 2)
    return Tiles(height, whole, width, 8 if height * whole >= 1 << 13 else 4, 2)


def row_tiles(width: int, itemsize: int) -> Tiles:
    """Return tiles of 8 KiB for a loop along rows: several short rows, or a piece of a long one."""
    across = min(triton.next_power_of_2(width), 8192 // itemsize)
    return Tiles(8192 // itemsize // across, across, 0)


def gradient_tiles(down: int, across: int, device: torch.device) -> Tiles:
    """Return tiles for a loop along rows that also sums over rows: tall ones if they keep the device busy."""
    busy = [height for height in (64, 32) if triton.cdiv(down, height) >= limits(device).processors]
    return Tiles([*busy, 16][0], clipped(128, across), 0)


def clipped(size: int, length: int) -> int:
    """Return ``size``, or the next power of two from ``length`` if that is smaller; at least 16, for products."""
    room: int = triton.next_power_of_2(length)
    return min(size, max(16, room))


def cut(length: int, tile: int, across: int, device: torch.device) -> tuple[int, int]:
    """Cut a sum over ``length`` into parts, so that few tiles fill the device; return a part's length, and how many.

    A part is several tiles long. The parts' sums are added in a second step, in order.
    """
    wanted = max(1, min(limits(device).processors // across, length // (4 * tile)))
    part = max(1, triton.cdiv(triton.cdiv(length, wanted), tile)) * tile
    return part, max(1, triton.cdiv(length, part))


@functools.lru_cache(maxsize=4096)
def slab(down: int, width: int, dtype: torch.dtype, itemsize: int, device: torch.device) -> int:
    """Return how many of ``down`` rows of an intermediate fit half of the shared cache, in whole waves of tiles."""
    processors, _, cache = limits(device)
    height = max(128, cache // 2 // (width * dtype.itemsize))
    tiles = product_tiles(height, width, itemsize, device)
    wave = processors // triton.cdiv(width, tiles.across) * tiles.down
    return min(down, height // wave * wave if 0 < wave <= height else height)


def precision(dtype: torch.dtype) -> str:
    """Return the precision of float32 products, from torch's setting; other types have only one."""
    exact = dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


def wide(dtype: torch.dtype) -> tuple[torch.dtype, Any, float]:
    """Return the type of sums, for torch and for Triton, and a small number whose square is normal in it."""
    double = dtype == torch.float64
    return (torch.float64, tl.float64, 2.0**-500) if double else (torch.float32, tl.float32, 2.0**-60)


def on(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which kernels run on the tensor's device; its current stream is the current one."""
    if x.is_cuda:
        return torch.cuda.device(x.device)
    if not INTERPRETED.value:
        raise RuntimeError(f"Triton kernels need a GPU, but the tensor is on {x.device}; use the torch backend there")
    return contextlib.nullcontext()
