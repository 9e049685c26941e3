"""Rows of a matrix: lengths that neither overflow nor underflow, far rows, and reshaping to matrices and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as _are_transforms_active
from torch._C import _is_tracing
from torch.autograd import Function
from torch.compiler import is_compiling

from .operands import KEYS_ARE_KNOWN, is_eager

_BLOCK = 2**18  # entries: 1 MiB of float32
_ADDED = 256  # summands added sequentially in their own type
_LONG = 2**11  # rows of at least this many entries are summed in blocks
FAR = 2.0**60  # a row or image of a larger length is *far*: products with it, or its scale, may leave float32's range


def check_range(name: str, kappa: float, above: float, dtype: torch.dtype, room: float = 1.0) -> None:
    """Raise ValueError for a kappa out of the range of a type, in which its root scales samples.

    Arithmetic with kappa itself is in at least float32, where kappa must differ from its bound. Intermediate results
    may be larger than the root by the factor ``room``.
    """
    own, wide = torch.finfo(dtype), torch.finfo(torch.promote_types(dtype, torch.float32))
    if dtype == torch.float64:  # cubes of the root must stay in range
        low, high = 1e-200, 1e200
    else:
        low, high = max(own.tiny**2, wide.tiny), min((own.max / room) ** 2, wide.max)
    low = max(low, above * (1 + wide.eps))
    if not low <= kappa <= high:
        raise ValueError(f"{name}: kappa is {kappa}; with {dtype} give a number from {low:.9g} to {high:.6g}")


def squared_length(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return columns (B, 1) ``peak`` and ``q`` of at least float32 with ``|x|^2 = peak^2 q`` for rows of ``x`` (B, n).

    The peak is about as large as the row, so that no square overflows or underflows; results do not depend on it, and
    it carries no gradient. ``q`` is smooth at zero too, for derivatives of any order.
    """
    peak = _peak(x.detach())
    return peak, (x / peak).square().sum(-1, keepdim=True)


def safe_squares(x: Tensor) -> tuple[Tensor, Tensor | None] | tuple[None, None]:
    """Return ``|x|^2`` for each row of ``x`` (B, n) as a new column (B, 1), and a mask of rows where it may be wrong.

    The mask is a boolean column, or None if no row is affected and all squares are positive. Rows are treated one by
    one, so no bit of a row depends on other rows. Returns (None, None) except on the CPU, where reading a value costs
    nothing, outside graphs and compilers.
    """
    if not (is_visible(x) and x.numel()):
        return None, None
    length = _length(x)
    low, high = torch.aminmax(length)
    limits = torch.finfo(length.dtype)
    least, most = limits.tiny**0.4, limits.max**0.45
    if least < low.item() and high.item() < most:
        return length.square_(), None
    unsafe = ~((length > least) & (length < most))
    return length.square_(), unsafe


def scaled_length(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result of ``squared_length`` with fewer passes over memory, when no graph is recorded."""
    peak = _peak(x)
    return peak, _length(x / peak).square()


def _length(x: Tensor) -> Tensor:
    """Return the length (B, 1) of each row of ``x`` (B, n); long rows are summed in blocks, to lose no digits."""
    if not is_eager(x) or x.shape[-1] < _LONG:
        return _norm(x)
    blocks, rest = divmod(x.shape[-1], _ADDED)
    parts = _norm(x[..., : blocks * _ADDED].reshape(*x.shape[:-1], blocks, _ADDED)).squeeze(-1)
    if rest:
        parts = torch.cat((parts, _norm(x[..., blocks * _ADDED :])), -1)
    return _norm(parts.double()).to(parts.dtype)


def _norm(x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_wide(x))
    return found


def squared_length_without_graph(x: Tensor) -> tuple[Tensor | float, Tensor]:
    """Return the same as ``scaled_length``, with a peak of 1 for rows whose lengths are safe to square."""
    squares, unsafe = safe_squares(x)
    if squares is None:
        return scaled_length(x)
    if unsafe is None:
        return 1.0, squares
    peak, q = scaled_length(x)
    return torch.where(unsafe, peak, 1.0), torch.where(unsafe, q, squares)


def with_far_rows(z: Tensor, f: Tensor, x: Tensor, exact: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the output (B, m) and scale (B, 1) of rows of ``x`` (B, n), with *far* rows (see ``FAR``) by ``exact``.

    ``exact`` computes in float64, where nothing computed from far rows leaves the range. Their scale may be below the
    smallest normal float32 number; it then has fewer digits, and the backward pass is only as accurate as the scale.
    """
    if x.dtype != torch.float32 or not (x.numel() and is_visible(x)):
        return z, f
    far = _peak(x) > FAR
    if not far.any():
        return z, f
    right, scale = exact()
    return torch.where(far, right.to(z.dtype), z), torch.where(far, scale.to(f.dtype), f)


def weighted_sum(weights: Tensor, rows: Tensor) -> Tensor:
    """Return the sum (m) of ``rows`` (B, m), each times its weight (B, 1), summed in blocks of rows.

    A matrix product adds one row after the other: over a million equal rows its relative error is a hundredth.
    """
    weights = weights.squeeze(-1)
    whole = len(rows) - len(rows) % _ADDED
    if whole <= _ADDED:
        return torch.mv(rows.t(), weights)
    parts = torch.bmm(
        weights[:whole].reshape(-1, 1, _ADDED), rows[:whole].reshape(whole // _ADDED, _ADDED, rows.shape[1])
    )
    return parts.sum((0, 1)).add_(torch.mv(rows[whole:].t(), weights[whole:]))


def read_once(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Store a function's signature on it; otherwise torch computes it at each application."""
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward


def _peak(x: Tensor) -> Tensor:
    """Return the sum of absolute values of each row, clamped to be finite and to have a normal square."""
    total: Tensor = torch.linalg.vector_norm(x, 1, dim=-1, keepdim=True, dtype=_wide(x))
    limits = torch.finfo(total.dtype)
    return total.clamp(limits.tiny**0.5, limits.max)


def is_visible(x: Tensor) -> bool:
    """Return whether this is a plain CPU tensor whose values may be read, since nothing records operations."""
    return x.is_cpu and is_eager(x)


def is_scaled_first(x: Tensor) -> bool:
    """Return whether to scale ``x`` before its product, which costs more than scaling the product.

    16-bit types need it, and so does float32 if far rows cannot be looked for: on a GPU and in compiled graphs. A trace
    scales the product, which takes fewer operations.
    """
    if x.dtype != torch.float32:
        return x.dtype.itemsize < 4
    return is_compiling() or not (is_visible(x) or _is_tracing())


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def as_rows(x: Tensor) -> Tensor:
    """Return ``x`` (..., n) as a matrix (B, n), one row per sample."""
    if x.dim() == 2:
        return x
    return x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)


class FarError(Exception):
    """Raised by a map of images instead of returning results, if some images are far (see ``FAR``)."""


def are_far(x: Tensor) -> Tensor:
    """Return a mask of the float32 images ``x`` (B, ..) with far entries: sums of products may leave the range."""
    most = x.detach().abs().amax(tuple(range(1, x.dim())), keepdim=True)
    return most > FAR


def with_far_images(forward: Callable[..., Sequence[Any]], x: Any, *others: Any) -> Sequence[Any]:
    """Run ``forward`` on images ``x`` (B, ..), for far ones in float64; return the output, the scale, and the rest.

    The rest, which is kept for the backward pass, belongs to a batch in which ones replace the far images.
    """
    far = are_far(x)
    found = forward(torch.where(far, 1.0, x), *others)
    wide = forward(*(a.double() if isinstance(a, Tensor) else a for a in (x, *others)))
    ours = [torch.where(far, w.to(near.dtype), near) for near, w in zip(found[:2], wide[:2], strict=True)]
    return *ours, *found[2:]


def apply(eager: type[Function], traced: Any, *arguments: Tensor | float | None) -> Tensor:
    """Return the first result, the map's output, of a generated function; see ``results``.

    Far images are computed separately in float64: no bit of the other images depends on them.
    """
    try:
        found = results(eager, traced, *arguments)
    except FarError:
        found = with_far_images(lambda *given: (apply(eager, traced, *given),), *arguments)
    output: Tensor = found[0] if type(found) is tuple else found
    return output


def results(eager: type[Function], traced: Any, *arguments: Tensor | float | None) -> Any:
    """Return all results of a generated function; ``traced`` is its form for compilers, possibly an operator.

    ``torch.jit.trace`` and the ONNX exporter based on it do not support autograd functions, so they get the operations
    of its forward pass. Otherwise the function goes ``straight`` to autograd; in transforms of ``torch.func``,
    ``eager.transformed`` replaces it if it names a class.
    """
    if is_compiling():
        return traced.apply(*arguments)
    if _is_tracing():
        return traced.forward(*arguments)
    if _are_transforms_active():
        return getattr(eager, "transformed", eager).apply(*arguments)
    return straight(eager)(*arguments) if KEYS_ARE_KNOWN else traced.apply(*arguments)


def straight(function: type[Function]) -> Callable[..., Any]:
    """Return autograd's own ``apply``; ``Function.apply`` first looks for defaults of arguments; there are none."""
    own: Any = super(Function, function)
    found: Callable[..., Any] = own.apply
    return found


def row_blocks(x: Tensor) -> list[slice]:
    """Return slices that partition the rows of ``x`` (B, n); empty if it is best to process all rows at once.

    Intermediate results for the rows of one slice stay in the cache of a core.
    """
    if not is_visible(x) or x.numel() < 2 * _BLOCK:
        return []
    step = max(1, _BLOCK // x.shape[1])
    return [slice(first, first + step) for first in range(0, x.shape[0], step)]


def as_given(z: Tensor, x: Tensor) -> Tensor:
    """Return ``z`` (B, m) with the leading axes of ``x`` (..., n)."""
    return z.reshape(*x.shape[:-1], z.shape[-1])


def centred(x: Tensor) -> Tensor:
    """Return ``x`` (..., n) minus the mean of each row, which is computed in at least float32.

    If a float32 sum overflows, it is computed in float64; always so if values cannot be read.
    """
    wide = _wide(x)
    if wide == torch.float64 or x.device.type == "mps" or (not is_compiling() and _is_tracing()):
        return (x - x.mean(-1, keepdim=True, dtype=wide)).to(x.dtype)
    if not is_visible(x):
        return (x - x.mean(-1, keepdim=True, dtype=torch.float64).to(wide)).to(x.dtype)
    mean = x.mean(-1, keepdim=True, dtype=wide)
    known = mean.detach().isfinite()
    if not known.all():
        mean = torch.where(known, mean, x.mean(-1, keepdim=True, dtype=torch.float64).to(wide))
    return (x - mean).to(x.dtype)
