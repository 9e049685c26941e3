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
Rows = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class Law:
    """Whose kernel it is: a layer known by name, or one of the maps that cancel its divergence."""

    layer: str
    map: str = ""


@dataclass(frozen=True)
class _Point:
    """Rows by role, (groups, rows, entries) or, of tokens, (groups, rows); which index means which role; constants.

    ``products`` holds those of each chosen row with each row, where they are known.
    """

    rows: Mapping[str, Rows]
    roles: Mapping[Index, str]
    constants: Mapping[str, float]
    scope: Mapping[str, Definition]
    products: Tensor | None = None

    def of(self, role: str, name: str) -> Tensor:
        """Return the rows of a role; of a layer of several inputs those of one input."""
        held = self.rows[role]
        return held if isinstance(held, Tensor) else held[name]

    def number(self, value: float) -> Tensor:
        """Return a number in the type of the rows."""
        held = self.rows[ALL]
        rows = held if isinstance(held, Tensor) else next(iter(held.values()))
        return torch.tensor(value, dtype=rows.dtype if rows.is_floating_point() else torch.float64, device=rows.device)


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
    point = _Point({CHOSEN: chosen, ALL: rows}, roles, {"kappa": kappa}, scope, products)
    shape = (chosen.shape[0], chosen.shape[1], rows.shape[1]) if products is None else products.shape
    return _value(found.cross_terms, point).expand(shape)


def kernel_of_inputs(
    law: Law, chosen: Mapping[str, Tensor], rows: Mapping[str, Tensor], constants: Mapping[str, float]
) -> Tensor:
    """Return K of each chosen sample with each sample of a layer that reads several things.

    Args:
        law: the derivation, of a layer without a map.
        chosen: what the chosen samples read and compute, (groups, chosen, entries), by the names in the derivation.
        rows: the same of all samples, (groups, samples, entries).
        constants: sizes by the names in the derivation.
    """
    found, scope = _derivation(law)
    roles = {index: CHOSEN for index in found.samples} | {index.primed(): ALL for index in found.samples}
    return _value(found.cross_terms, _Point({CHOSEN: chosen, ALL: rows}, roles, constants, scope))


@cache
def _derivation(law: Law) -> tuple[Derivation, Mapping[str, Definition]]:
    if not law.map:
        return derived(law.layer), {}
    mapped = next(found.mapped for found in derived(law.layer).solutions if found.name == law.map)
    return derive.effective_update(mapped), {definition.name: definition for definition in mapped.definitions}


def _value(expression: Expr, point: _Point) -> Tensor:
    """Return the expression as a tensor that broadcasts against (groups, chosen, rows)."""
    match expression:
        case sympy.Number():
            return point.number(float(expression))
        case Symbol(name=name) if name in point.constants:
            return point.number(point.constants[name])
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
        return _along(point.of(role, str(expression.base.label)), role)
    inner = dict(zip(definition.indices, (point.roles[index] for index in expression.indices), strict=True))
    value = _value(definition.expression, _Point(point.rows, inner, point.constants, point.scope))
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
        operands += [point.of(role, str(base.base.label))] * int(power)
        words += [word] * int(power)
    if point.products is not None:
        if len(operands) != 2 or len(roles) != 2:
            raise TypeError(f"{expression} is no sum of products of two rows")
        return point.products
    result = "g" + "".join(sorted(roles))
    value = torch.einsum(f"{','.join(words)}->{result}", *operands)
    return value if len(roles) == 2 else _along(value, roles.pop())
