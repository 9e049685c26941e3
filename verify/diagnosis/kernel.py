"""Evaluate the derived update kernel between chosen rows and all rows of a layer's input.

A row is the part of the input that one output is linear in: a sample's features, a token, a patch. Axes: g group, a
chosen row, b any row, j.. entries of a row. No formula is written here: the expression is the derivation's cross term.
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
    """The derivation whose kernel is evaluated: a named layer, or one of its cancelling maps."""

    layer: str
    map: str = ""


@dataclass(frozen=True)
class _Point:
    """The rows of each role, (groups, rows, entries) or, for tokens, (groups, rows); the role of each index; constants.

    ``products`` holds the products of each chosen row with each row, if known.
    """

    rows: Mapping[str, Rows]
    roles: Mapping[Index, str]
    constants: Mapping[str, float]
    scope: Mapping[str, Definition]
    products: Tensor | None = None

    def of(self, role: str, name: str) -> Tensor:
        """Return the rows of a role; for a layer with several inputs those of the named input."""
        held = self.rows[role]
        return held if isinstance(held, Tensor) else held[name]

    def number(self, value: float) -> Tensor:
        """Return a number as a tensor of the rows' dtype."""
        held = self.rows[ALL]
        rows = held if isinstance(held, Tensor) else next(iter(held.values()))
        return torch.tensor(value, dtype=rows.dtype if rows.is_floating_point() else torch.float64, device=rows.device)


def kernel(law: Law, chosen: Tensor, rows: Tensor, kappa: float = 1.0, products: Tensor | None = None) -> Tensor:
    """Return K between each chosen row and each row, (groups, chosen, rows), in the dtype of the rows.

    Args:
        law: the derivation.
        chosen: (groups, chosen, entries); tokens (groups, chosen), integers.
        rows: (groups, rows, entries); tokens (groups, rows). If products are given, only the dtype is used.
        kappa: the constant of a cancelling map.
        products: the products of chosen rows with all rows, (groups, chosen, rows), for a layer without a map.

    Raises:
        TypeError: the cross term of the derivation is not a sum of products of rows.
    """
    found, scope = _derivation(law)
    roles = {index: CHOSEN for index in found.samples} | {index.primed(): ALL for index in found.samples}
    point = _Point({CHOSEN: chosen, ALL: rows}, roles, {"kappa": kappa}, scope, products)
    shape = (chosen.shape[0], chosen.shape[1], rows.shape[1]) if products is None else products.shape
    return _value(found.cross_terms, point).expand(shape)


def kernel_of_inputs(
    law: Law, chosen: Mapping[str, Tensor], rows: Mapping[str, Tensor], constants: Mapping[str, float]
) -> Tensor:
    """Return K between each chosen sample and each sample, for a layer with several inputs.

    Args:
        law: the derivation of a layer, without a map.
        chosen: inputs and intermediates of the chosen samples, (groups, chosen, entries), by derivation names.
        rows: the same of all samples, (groups, samples, entries).
        constants: sizes by derivation names.
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
    raise TypeError(f"no rule to evaluate {type(expression).__name__} on rows: {expression}")


def _entry(expression: Indexed, point: _Point) -> Tensor:
    """Return a token, or the value of an intermediate of the rows.

    The scale of an all-zero row has a pole. There the layer defines the weight part as 0, which a scale of 0 gives.
    """
    role = next(point.roles[index] for index in expression.indices if index in point.roles)
    definition = point.scope.get(str(expression.base.label))
    if definition is None:
        return _along(point.of(role, str(expression.base.label)), role)
    inner = dict(zip(definition.indices, (point.roles[index] for index in expression.indices), strict=True))
    value = _value(definition.expression, _Point(point.rows, inner, point.constants, point.scope))
    return torch.where(value.isfinite(), value, 0.0)


def _along(rows: Tensor, role: str) -> Tensor:
    """Return one number per row, (groups, rows), along the axis of its role."""
    return rows.unsqueeze(-1 if role == CHOSEN else -2)


def _contraction(expression: IndexedSum, point: _Point) -> Tensor:
    """Return a sum over products of row entries, as one contraction."""
    letters = {index: chr(ord("j") + k) for k, index in enumerate(expression.bound)}
    operands, words, roles = [], [], set()
    for factor in Mul.make_args(expression.body):
        base, power = factor.as_base_exp()
        if not (isinstance(base, Indexed) and power.is_Integer and power > 0):
            raise TypeError(f"{factor} is not an entry of a row")
        role = next(point.roles[index] for index in base.indices if index in point.roles)
        roles.add(role)
        word = "g" + role + "".join(letters[index] for index in base.indices if index in letters)
        operands += [point.of(role, str(base.base.label))] * int(power)
        words += [word] * int(power)
    if point.products is not None:
        if len(operands) != 2 or len(roles) != 2:
            raise TypeError(f"{expression} is not a sum of products of two rows")
        return point.products
    result = "g" + "".join(sorted(roles))
    value = torch.einsum(f"{','.join(words)}->{result}", *operands)
    return value if len(roles) == 2 else _along(value, roles.pop())
