"""Images as arguments of the generated C++ kernels of convolutions: tensors (batch, groups, channels, *space)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....runtime.operands import constant
from ....runtime.patch_operators import PatchPasses
from ....runtime.patch_places import as_geometry, smallest_sum, three
from ....runtime.patches import Geometry, positions_of, reach
from ....runtime.rows import FarError, are_far
from .launch import Source, suit

_ENOUGH = 2**14  # entries of x from which on the passes save more than two operator calls cost
_FEW = 2**14  # entries of W up to which the threads' sums cost less than operator calls
_SHARE = 2  # entries that all threads together may sum per entry of the images


class HostPasses(PatchPasses):
    """The passes of a map as operators that keep only the scale; results have the layout that tracing predicts."""

    def __init__(self, function: Any, plain: Any, count: int, saved: Sequence[int], transposed: bool) -> None:
        super().__init__(function, plain, count, saved)
        self._transposed = transposed

    def results(self, *given: Any) -> Sequence[Any]:
        """Return the output, the scale, and an empty tensor."""
        return super().results(*given[:-1], True)

    def forward(self, *given: Any) -> tuple[Tensor, ...]:
        """Return the same, with the output in the input's layout."""
        with torch.no_grad():
            z, f, kept = self.results(*given)
        laid = _room(given[0], z.shape[2], z.shape[3:])
        return z if z.stride() == laid.stride() else laid.copy_(z), f.contiguous(), kept

    def backward(self, g: Tensor, *given: Any) -> tuple[Tensor, ...]:
        """Return a gradient for each tensor: the input's in the input's layout, others contiguous."""
        with torch.no_grad():
            found, x = self.gradients(g, *given), given[0]
        dx, *others = (x.new_empty(0) if d is None else d for d in found)
        if found[0] is not None and dx.stride() != x.stride():
            dx = torch.empty_like(x).copy_(dx)
        return dx, *(d.contiguous() for d in others)

    def forward_like(self, *given: Any) -> tuple[Tensor, ...]:
        """Return tensors like the results of ``forward``, for tracing."""
        x, W, numbers = given[0], given[1], given[-2]
        channels, lengths = _output(x, W, as_geometry(numbers), self._transposed)
        z = _room(x, channels, lengths)
        f = x.new_empty((x.shape[0], x.shape[1], 1, *lengths), dtype=torch.promote_types(x.dtype, torch.float32))
        return z, f, x.new_empty(0)

    def backward_like(self, g: Tensor, *given: Any) -> tuple[Tensor, ...]:
        """Return tensors like the results of ``backward``, for tracing."""
        x, W, wanted = given[0], given[1], given[-1]
        dx = torch.empty_like(x) if wanted[0] else x.new_empty(0)
        shapes = W.shape, _bias(W, self._transposed)
        return dx, *(x.new_empty(shape if w else 0) for shape, w in zip(shapes, wanted[1:], strict=False))


def fits(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    geometry: Geometry,
    transposed: bool,
    g: Tensor | None = None,
    f: Tensor | None = None,
) -> bool:
    """Return whether the kernels can read these tensors and are fast: a supported type, enough images for all threads.

    Shapes: ``x`` (B, G, C, *L), ``W`` (G, O, C, *K) or (G, C, O, *K) of a transposed convolution, ``b`` (G, O, 1, ..),
    ``g`` (B, G, O, *P), ``f`` (B, G, 1, *P). An image belongs to one thread, and each thread sums its own gradient with
    respect to W. With few images some threads have no work; with a large W and small images these sums would dominate.
    """
    if x.dim() != W.dim() or not x.numel() or not W.numel():
        return False
    (count, groups, inputs), (outputs, positions) = x.shape[:3], _output(x, W, geometry, transposed)
    shapes = (
        x.shape,
        (groups, *((inputs, outputs) if transposed else (outputs, inputs)), *geometry.kernel),
        (groups, outputs, *[1] * (x.dim() - 3)),
        (count, groups, outputs, *positions),
        (count, groups, 1, *positions),
    )
    given = [(t, shape) for t, shape in zip((x, W, b, g, f), shapes, strict=True) if t is not None]
    return min(positions) > 0 and suit([t for t, _ in given], [shape for _, shape in given]) and _pays(x, W)


def suits(x: Tensor, W: Tensor) -> bool:
    """Return whether a compiled graph is faster with the passes than with the compiler's own fusion."""
    return x.numel() >= _ENOUGH and _pays(x, W)


def _pays(x: Tensor, W: Tensor) -> bool:
    """Return whether the passes are faster than torch's operations: see ``fits``."""
    threads = _threads()
    rounds = -(-x.shape[0] // threads)
    is_small = W.numel() <= _FEW or threads * W.numel() <= _SHARE * x.numel()
    return 4 * x.shape[0] >= 3 * rounds * threads and is_small


@constant
def _threads() -> int:
    return torch.get_num_threads()


def forward(
    kernels: Source,
    name: str,
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    kappa: float,
    geometry: Geometry,
    transposed: bool,
) -> tuple[Tensor, Tensor]:
    """Return the output (B, G, O, *P), in the layout of ``x`` (B, G, C, *L), and the scale (B, G, 1, *P).

    Raises ``FarError`` if images are far.
    """
    channels, positions = _output(x, W, geometry, transposed)
    z, f = _room(x, channels, positions), x.new_empty((*x.shape[:2], 1, *positions))
    given = _given(x, geometry, z, x)
    far = _run(kernels, name, given, x, [x, W.contiguous(), None if b is None else b.contiguous(), z, f], kappa)
    if far and are_far(x).any():
        raise FarError
    return z, f


def backward(
    kernels: Source,
    name: str,
    g: Tensor,
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    f: Tensor,
    kappa: float,
    geometry: Geometry,
    wanted: Sequence[bool],
    transposed: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients with respect to ``x``, ``W`` and a bias (G, O, 1, ..), None for those not wanted."""
    dx = torch.empty_like(x) if wanted[0] else None
    dW = W.new_empty(W.shape) if wanted[1] else None
    db = W.new_empty(_bias(W, transposed)) if wanted[2] else None
    given = _given(x, geometry, g, x if dx is None else dx)
    tensors = [g, x, W.contiguous(), None if b is None else b.contiguous(), f.contiguous(), dx, dW, db]
    _run(kernels, name, given, x, tensors, kappa)
    return dx, dW, db


def _run(
    kernels: Source, name: str, given: Sequence[int], x: Tensor, tensors: Sequence[Tensor | None], kappa: float
) -> int:
    """Run a kernel, first to query how much memory it needs, then with that memory; return its result."""
    numbers = (ctypes.c_longlong * (len(given) + 1))(*given)  # the last one is the kernel's answer
    addresses = [0 if t is None else t.data_ptr() for t in tensors]
    settings = (float(kappa), smallest_sum(x), torch.get_num_threads())
    code = kernels.on(x)
    getattr(code, name)(ctypes.addressof(numbers), *addresses, 0, *settings)
    room = x.new_empty(numbers[-1])
    getattr(code, name)(ctypes.addressof(numbers), *addresses, room.data_ptr(), *settings)
    return numbers[-1]


def _given(x: Tensor, geometry: Geometry, z: Tensor, dx: Tensor) -> list[int]:
    """Return the lengths and strides that a kernel reads, in its order."""
    kernel, stride, padding, dilation, _ = geometry
    parts = ((x.shape[3:], 1), (z.shape[3:], 1), (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    lengths = [n for part, other in parts for n in three(part, other)]
    steps = [n for t in (x, z, dx) for n in (*t.stride()[:3], *three(t.stride()[3:], 0))]
    return [*x.shape[:3], z.shape[2], *lengths, *steps]


def _output(x: Tensor, W: Tensor, geometry: Geometry, transposed: bool) -> tuple[int, tuple[int, ...]]:
    """Return the number of channels per group of the output, and its spatial lengths."""
    return W.shape[1 + transposed], (reach if transposed else positions_of)(x.shape[3:], geometry)


def _bias(W: Tensor, transposed: bool) -> tuple[int, ...]:
    """Return the shape of a bias."""
    return W.shape[0], W.shape[1 + transposed], *[1] * (W.dim() - 3)


def _room(x: Tensor, channels: int, positions: Sequence[int]) -> Tensor:
    """Return memory for the output (B, G, O, *P), channels-last if ``x`` is.

    It is not a view: for a view, torch asserts that a tangent has the same layout.
    """
    (count, groups), width = x.shape[:2], x.shape[1] * channels
    shape = (count, groups, channels, *positions)
    if not _ends_in_channels(x):
        return x.new_empty(shape)
    steps = [width * math.prod(positions[k + 1 :]) for k in range(len(positions))]
    return x.new_empty_strided(shape, (width * math.prod(positions), channels, 1, *steps))


def _ends_in_channels(x: Tensor) -> bool:
    """Return whether a tensor is channels-last: channels are contiguous, positions are not."""
    axis = 2 if x.shape[2] > 1 else 1
    return x.stride(axis) == 1 and x.shape[axis] > 1 and x.stride(-1) != 1
