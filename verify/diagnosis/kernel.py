"""The derived update kernel between chosen rows and all rows of a layer's input, evaluated on tensors.

A row is what one output of the layer is linear in: a sample's features, a token, a patch. Axes: g group, a chosen row,
b any row, j.. entries of a row. Nothing here knows a formula: the expression is the derivation's cross term.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import sympy
import torch
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul, Pow, Symbol
from torch import Tensor

import derive
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum
from derive.forward_map import Definition
from derive.record import Derivation
from verify.derived import derived

CHOSEN, ALL = "a", "b"


@dataclass(frozen=True)
class Law:
    """Whose kernel it is: a layer known by name, or one of the maps that cancel its divergence."""

    layer: str
    map: str = ""


@dataclass(frozen=True)
class _Point:
    """Rows by role, (groups, rows, entries) or, of tokens, (groups, rows); which index means which role; kappa.

    ``products`` holds those of each chosen row with each row, where they are known.
    """

    rows: Mapping[str, Tensor]
    roles: Mapping[Index, str]
    kappa: float
    scope: Mapping[str, Definition]
    products: Tensor | None = None


def kernel(law: Law, chosen: Tensor, rows: Tensor, kappa: float = 1.0, products: Tensor | None = None) -> Tensor:
    """Return K of each chosen row with each row, (groups, chosen, rows), in the type of the rows.

    Args:
        law: the derivation.
        chosen: (groups, chosen, entries); tokens (groups, chosen), integers.
        rows: (groups, rows, entries); tokens (groups, rows). Where products are given, any that tells the type.
        kappa: the constant of a cancelling map.
        products: of each chosen row with each row, (groups, chosen, rows), if known, for a layer without a map.

    Raises:
        TypeError: a derivation whose cross term is no sum of products of rows.
    """
    found, scope = _derivation(law)
    roles = {index: CHOSEN for index in found.samples} | {index.primed(): ALL for index in found.samples}
    point = _Point({CHOSEN: chosen, ALL: rows}, roles, kappa, scope, products)
    shape = (chosen.shape[0], chosen.shape[1], rows.shape[1]) if products is None else products.shape
    return _value(found.cross_terms, point).expand(shape)


@cache
def _derivation(law: Law) -> tuple[Derivation, Mapping[str, Definition]]:
    if not law.map:
        return derived(law.layer), {}
    mapped = next(found.mapped for found in derived(law.layer).solutions if found.name == law.map)
    return derive.effective_update(mapped), {definition.name: definition for definition in mapped.definitions}


def _number(value: float, point: _Point) -> Tensor:
    rows = point.rows[ALL]
    return torch.tensor(value, dtype=rows.dtype if rows.is_floating_point() else torch.float64, device=rows.device)


def _value(expression: Expr, point: _Point) -> Tensor:
    """Return the expression as a tensor that broadcasts against (groups, chosen, rows)."""
    match expression:
        case sympy.Number():
            return _number(float(expression), point)
        case Symbol(name="kappa"):
            return _number(point.kappa, point)
        case Add():
            return sum((_value(part, point) for part in expression.args[1:]), start=_value(expression.args[0], point))
        case Mul():
            return math.prod((_value(p, point) for p in expression.args[1:]), start=_value(expression.args[0], point))
        case Pow(args=(base, exponent)):
            return _value(base, point) ** _value(exponent, point)
        case IndexedSum():
            return _contraction(expression, point)
        case KroneckerDelta(args=(left, right)):
            return (_value(left, point) == _value(right, point)).double()
        case Indexed():
            return _entry(expression, point)
    raise TypeError(f"{type(expression).__name__} has no value on rows: {expression}")


def _entry(expression: Indexed, point: _Point) -> Tensor:
    """Return a token, or an intermediate of the rows' through its definition.

    A scale of a row of zeros has a pole there, where the layer gives the weight part 0: so does a scale of 0.
    """
    role = next(point.roles[index] for index in expression.indices if index in point.roles)
    definition = point.scope.get(str(expression.base.label))
    if definition is None:
        return _along(point.rows[role], role)
    inner = dict(zip(definition.indices, (point.roles[index] for index in expression.indices), strict=True))
    value = _value(definition.expression, _Point(point.rows, inner, point.kappa, point.scope))
    return torch.where(value.isfinite(), value, 0.0)


def _along(rows: Tensor, role: str) -> Tensor:
    """Lay one number a row, (groups, rows), along the axis of its role."""
    return rows.unsqueeze(-1 if role == CHOSEN else -2)


def _contraction(expression: IndexedSum, point: _Point) -> Tensor:
    """Return a sum of a product of entries of rows, as one contraction."""
    letters = {index: chr(ord("j") + k) for k, index in enumerate(expression.bound)}
    operands, words, roles = [], [], set()
    for factor in Mul.make_args(expression.body):
        base, power = factor.as_base_exp()
        if not (isinstance(base, Indexed) and power.is_Integer and power > 0):
            raise TypeError(f"{factor} is no entry of a row")
        role = next(point.roles[index] for index in base.indices if index in point.roles)
        roles.add(role)
        word = "g" + role + "".join(letters[index] for index in base.indices if index in letters)
        operands += [point.rows[role]] * int(power)
        words += [word] * int(power)
    if point.products is not None:
        if len(operands) != 2 or len(roles) != 2:
            raise TypeError(f"{expression} is no sum of products of two rows")
        return point.products
    result = "g" + "".join(sorted(roles))
    value = torch.einsum(f"{','.join(words)}->{result}", *operands)
    return value if len(roles) == 2 else _along(value, roles.pop())
