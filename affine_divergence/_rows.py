"""Lengths of rows that neither overflow nor underflow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function


def magnitude(x: Tensor) -> Tensor:
    """Return a positive number about as large as each row of ``x`` (B, n): a column (B, 1) of at least float32.

    It is the sum of absolute values, never so small that its own square vanishes. Results do not depend on it (it is
    divided out before squaring and multiplied in after), so it carries no gradient.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    total: Tensor = torch.linalg.vector_norm(x.detach(), 1, dim=-1, keepdim=True, dtype=wide)
    return total.clamp_min(torch.finfo(wide).tiny ** 0.5)


def sum_of_squares(y: Tensor) -> Tensor:
    """Return the sum of squares of each row of ``y`` (B, n) as a column (B, 1)."""
    if torch.is_grad_enabled():  # smooth at zero, which the square of a norm is not to autograd
        return y.square().sum(-1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return length.square()


def as_rows(x: Tensor) -> Tensor:
    """Return ``x`` (..., n) as a matrix (B, n), one sample a row."""
    if x.dim() == 2:
        return x
    return x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)


def apply(eager: type[Function], traced: type[Function], *arguments: Tensor | float | None) -> Tensor:
    """Return the first result, the map's output, of a generated function; ``traced`` is the form that compilers read."""
    chosen = traced if torch.compiler.is_compiling() else eager
    output: Tensor = chosen.apply(*arguments)[0]  # type: ignore[no-untyped-call]
    return output


def as_given(z: Tensor, x: Tensor) -> Tensor:
    """Return ``z`` (B, m) with the leading axes of ``x`` (..., n)."""
    return z if x.dim() == 2 else z.reshape(*x.shape[:-1], z.shape[-1])


def centred(x: Tensor) -> Tensor:
    """Return ``x`` (..., n) less the mean of each row, which is taken in at least float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x - x.mean(-1, keepdim=True, dtype=wide)).to(x.dtype)
