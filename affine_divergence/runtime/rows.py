"""Rows of a matrix: lengths that neither overflow nor underflow, and the way from tensors to matrices and back."""

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

_BLOCK = 2**18  # numbers, 1 MiB of float32
_ADDED = 256  # numbers that are added up one after the other in the type they have
_LONG = 2**11  # numbers of a row from which on it is added up in blocks
FAR = 2.0**60  # length of a row from which on products with it, or its scale, may leave the range of float32


def check_range(name: str, kappa: float, above: float, dtype: torch.dtype, room: float = 1.0) -> None:
    """Raise ValueError for a kappa out of the range of a type: its root scales what is given in that type.

    What is computed of kappa itself is in at least float32; there it must differ from its bound. Intermediate results
    may be larger than the root by a factor, ``room``.
    """
    own, wide = torch.finfo(dtype), torch.finfo(torch.promote_types(dtype, torch.float32))
    if dtype == torch.float64:  # cubes of the root are taken there
        low, high = 1e-200, 1e200
    else:
        low, high = max(own.tiny**2, wide.tiny), min((own.max / room) ** 2, wide.max)
    low = max(low, above * (1 + wide.eps))
    if not low <= kappa <= high:
        raise ValueError(f"{name}: kappa is {kappa}; with {dtype} give a number from {low:.9g} to {high:.6g}")


def squared_length(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return columns (B, 1) ``peak`` and ``q`` of at least float32 with ``|x|^2 = peak^2 q`` for rows of ``x`` (B, n).

    The peak is about as large as the row, so that no square overflows or vanishes; results do not depend on it and it
    carries no gradient. ``q`` is smooth also at zero, as often as autograd may ask.
    """
    peak = _peak(x.detach())
    return peak, (x / peak).square().sum(-1, keepdim=True)


def safe_squares(x: Tensor) -> tuple[Tensor, Tensor | None] | tuple[None, None]:
    """Return ``|x|^2`` for each row of ``x`` (B, n) as a new column (B, 1), and in which rows it may be wrong.

    These are marked in a column of truth values; None says that there are none, and that all squares are above zero. So
    no bit of a row depends on the values of others. Only on the CPU, where looking at a value costs nothing, and not
    for graphs: else, and while a compiler reads, there are no squares.
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
    """Return what ``squared_length`` does when no graph is recorded, with fewer passes over the memory."""
    peak = _peak(x)
    return peak, _length(x / peak).square()


def _length(x: Tensor) -> Tensor:
    """Return the length (B, 1) of each row of ``x`` (B, n), of long rows in blocks, so that no digits are lost."""
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
    """Return the same, with a peak of 1 for rows whose lengths are safe to square."""
    squares, unsafe = safe_squares(x)
    if squares is None:
        return scaled_length(x)
    if unsafe is None:
        return 1.0, squares
    peak, q = scaled_length(x)
    return torch.where(unsafe, peak, 1.0), torch.where(unsafe, q, squares)


def with_far_rows(z: Tensor, f: Tensor, x: Tensor, exact: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the output (B, m) and the scale (B, 1) of rows of ``x`` (B, n), of *far* rows as ``exact`` gives them.

    These are so long that products with them may leave the range of float32; ``exact`` computes in float64, which has
    room for all that is made of them. Their scale may be less than the smallest normal number: then it has fewer
    digits than others, and the backward pass, where nothing is larger than the gradient, is as exact as it is.
    """
    if x.dtype != torch.float32 or not (x.numel() and is_visible(x)):
        return z, f
    far = _peak(x) > FAR
    if not far.any():
        return z, f
    right, scale = exact()
    return torch.where(far, right.to(z.dtype), z), torch.where(far, scale.to(f.dtype), f)


def weighted_sum(weights: Tensor, rows: Tensor) -> Tensor:
    """Return the sum (m) of ``rows`` (B, m), each times its weight (B, 1), added up in blocks of rows.

    A product of matrices adds up one row after the other: over a million equal rows it is off by a hundredth.
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
    """Let a function carry its signature, which torch else works out anew each time the function is applied."""
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward


def _peak(x: Tensor) -> Tensor:
    """Return the sum of absolute values of each row, finite and never so small that its own square vanishes."""
    total: Tensor = torch.linalg.vector_norm(x, 1, dim=-1, keepdim=True, dtype=_wide(x))
    limits = torch.finfo(total.dtype)
    return total.clamp(limits.tiny**0.5, limits.max)


def is_visible(x: Tensor) -> bool:
    """Return whether this is a plain tensor of the CPU at whose values a program may look, for nothing records it."""
    return x.is_cpu and is_eager(x)


def is_scaled_first(x: Tensor) -> bool:
    """Return whether to scale ``x`` before its product; to scale the product afterwards costs less.

    16-bit numbers need it, and so does float32 where the program may not look for far entries: on a GPU and in compiled
    graphs. A trace scales afterwards, which takes fewer operations.
    """
    if x.dtype != torch.float32:
        return x.dtype.itemsize < 4
    return is_compiling() or not (is_visible(x) or _is_tracing())


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def as_rows(x: Tensor) -> Tensor:
    """Return ``x`` (..., n) as a matrix (B, n), one sample a row."""
    if x.dim() == 2:
        return x
    return x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)


class FarError(Exception):
    """Raised by a map of images, in the place of results, where some have entries near the end of the range."""


def are_far(x: Tensor) -> Tensor:
    """Return which images ``x`` (B, ..) of float32 have entries so large that sums of products may leave the range."""
    most = x.detach().abs().amax(tuple(range(1, x.dim())), keepdim=True)
    return most > FAR


def with_far_images(forward: Callable[..., Sequence[Any]], x: Any, *others: Any) -> Sequence[Any]:
    """Run ``forward`` on images ``x`` (B, ..), on far ones in float64; return the output, the scale, and the rest.

    The rest, which is kept for the backward pass, is that of a batch with ones in the place of far images.
    """
    far = are_far(x)
    found = forward(torch.where(far, 1.0, x), *others)
    wide = forward(*(a.double() if isinstance(a, Tensor) else a for a in (x, *others)))
    ours = [torch.where(far, w.to(near.dtype), near) for near, w in zip(found[:2], wide[:2], strict=True)]
    return *ours, *found[2:]


def apply(eager: type[Function], traced: Any, *arguments: Tensor | float | None) -> Tensor:
    """Return the first result, the map's output, of a generated function; see ``results``.

    Far images are computed in float64 apart from the others: no bit of these depends on them.
    """
    try:
        found = results(eager, traced, *arguments)
    except FarError:
        found = with_far_images(lambda *given: (apply(eager, traced, *given),), *arguments)
    output: Tensor = found[0] if type(found) is tuple else found
    return output


def results(eager: type[Function], traced: Any, *arguments: Tensor | float | None) -> Any:
    """Return all that a generated function gives; ``traced`` is the form that compilers read, perhaps an operator.

    ``torch.jit.trace`` and the ONNX exporter built on it know no functions: they see the operations of its forward
    pass. Outside the transforms of ``torch.func`` the function goes ``straight`` to autograd. In them
    ``eager.transformed`` takes its place, if it names a class.
    """
    if is_compiling():
        return traced.apply(*arguments)
    if _is_tracing():
        return traced.forward(*arguments)
    if _are_transforms_active():
        return getattr(eager, "transformed", eager).apply(*arguments)
    return straight(eager)(*arguments) if KEYS_ARE_KNOWN else traced.apply(*arguments)


def straight(function: type[Function]) -> Callable[..., Any]:
    """Return autograd's own ``apply``: that of ``Function`` first looks for defaults of arguments; there are none."""
    own: Any = super(Function, function)
    found: Callable[..., Any] = own.apply
    return found


def row_blocks(x: Tensor) -> list[slice]:
    """Return slices that together are all rows of ``x`` (B, n), none where the rows are best taken all at once.

    What is computed of the rows of one slice stays in the cache of a core.
    """
    if not is_visible(x) or x.numel() < 2 * _BLOCK:
        return []
    step = max(1, _BLOCK // x.shape[1])
    return [slice(first, first + step) for first in range(0, x.shape[0], step)]


def as_given(z: Tensor, x: Tensor) -> Tensor:
    """Return ``z`` (B, m) with the leading axes of ``x`` (..., n)."""
    return z.reshape(*x.shape[:-1], z.shape[-1])


def centred(x: Tensor) -> Tensor:
    """Return ``x`` (..., n) less the mean of each row, which is taken in at least float32.

    Where a sum of float32 leaves its range, it is taken in float64; and always where nobody may look.
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
