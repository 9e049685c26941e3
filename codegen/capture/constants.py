"""Recognise a module's buffers and constants that are masks or ranges of integers, by their values at every size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import sympy
from sympy import Expr, KroneckerDelta

from codegen.capture.fitting import Fitter
from codegen.capture.uniting import Declared
from codegen.capture.values import ONE, Indices, Value, broadcast, constant, not_negative

if TYPE_CHECKING:
    from torch import Tensor

_REACH = 3
Pattern = Callable[[Indices], Expr]


def recognised(declared: Declared, fitter: Fitter) -> Value | None:
    """Return a tensor as a function of its indices, if its values at every size fit one; else None."""
    import torch

    values = [g.value for g in declared.given]
    if declared.kind == "constant" or values[0].dtype in (torch.bool, torch.int64, torch.int32):
        found = _one_number(declared, values, fitter)
        if found is not None:
            return found
    if values[0].dtype in (torch.int64, torch.int32) and declared.shape:
        return _counted(declared, values)
    if values[0].dim() < 2:
        return None
    if values[0].dtype == torch.bool:
        pattern = _pattern(values)
        return None if pattern is None else Value(declared.shape, pattern, kind="truth")
    if values[0].is_floating_point() and any(torch.isinf(v).any() for v in values):
        finite = [torch.isfinite(v) for v in values]
        pattern = _pattern(finite)
        if pattern is not None and all((v[f] == 0).all() for v, f in zip(values, finite, strict=True)):
            return Value(declared.shape, lambda i: sympy.S.Zero, support=pattern)
    return None


def _one_number(declared: Declared, values: list[Tensor], fitter: Fitter) -> Value | None:
    if any(v.numel() == 0 or (v != v.flatten()[0]).any() for v in values):
        return None
    import torch

    truth = values[0].dtype == torch.bool
    if values[0].is_floating_point():
        number = fitter.real([float(v.flatten()[0]) for v in values])
    else:
        number = fitter.integer([int(v.flatten()[0]) for v in values])
    kind = "truth" if truth else "real" if values[0].is_floating_point() else "integer"
    return None if number is None else broadcast(constant(number, kind), declared.shape)


def _counted(declared: Declared, values: list[Tensor]) -> Value | None:
    """Return the tensor as the range 0, 1, 2 .. along one axis, if it is one."""
    import torch

    for k in range(len(declared.shape)):
        shape = [[-1 if j == k else 1 for j in range(v.dim())] for v in values]
        rows = [torch.arange(v.shape[k]).reshape(s) for v, s in zip(values, shape, strict=True)]
        if all((v == row).all() for v, row in zip(values, rows, strict=True)):
            return Value(declared.shape, _place(k), kind="integer")
    return None


def _place(axis: int) -> Pattern:
    return lambda i: i[axis]


def _pattern(values: list[Tensor]) -> Pattern | None:
    """Return the triangle or diagonal over the last two axes that a boolean mask is, or None."""
    for offset in range(-_REACH, _REACH + 1):
        for pattern, made in (_lower(offset), _upper(offset)):
            if all((v == made(*v.shape[-2:])).all() for v in values):
                return pattern
    for wanted in (True, False):
        if all((v == _diagonal(v.shape[-2], v.shape[-1], wanted)).all() for v in values):
            return _on_diagonal if wanted else _off_diagonal
    return None


def _lower(offset: int) -> tuple[Pattern, Callable[[int, int], Tensor]]:
    import torch

    return (
        lambda i: not_negative(i[-2] - i[-1] + offset),
        lambda a, b: torch.ones(a, b, dtype=torch.bool).tril(offset),
    )


def _upper(offset: int) -> tuple[Pattern, Callable[[int, int], Tensor]]:
    import torch

    return (
        lambda i: not_negative(i[-1] - i[-2] - offset),
        lambda a, b: torch.ones(a, b, dtype=torch.bool).triu(offset),
    )


def _diagonal(rows: int, columns: int, wanted: bool) -> Tensor:
    import torch

    return torch.eye(rows, columns, dtype=torch.bool) == wanted


def _on_diagonal(i: Indices) -> Expr:
    return KroneckerDelta(i[-2], i[-1])


def _off_diagonal(i: Indices) -> Expr:
    return ONE - KroneckerDelta(i[-2], i[-1])
