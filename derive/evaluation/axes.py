"""Which output axes index a parameter by themselves, read from the forward map through its intermediates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sympy import Expr, Indexed, IndexedBase, KroneckerDelta, Mul

from derive.algebra.index import Index
from derive.algebra.nodes import Binder

if TYPE_CHECKING:
    from derive.forward_map import Definition, Layer

Standing = Mapping[Index, Index]
"""The output index that each index is equal to."""


def unit_axes(layer: Layer) -> set[Index]:
    """Return the output indices that occur alone in a parameter's brackets: the units."""
    parameters = {p.base for p in layer.parameters}
    scope = {d.base: d for d in layer.definitions}
    return _alone(layer.output.expression, {i: i for i in layer.output.indices}, parameters, scope)


def _alone(
    expression: Expr, standing: Standing, parameters: set[IndexedBase], scope: Mapping[IndexedBase, Definition]
) -> set[Index]:
    if isinstance(expression, Indexed):
        if expression.base in parameters:
            return {standing[i] for i in expression.indices if i in standing}
        definition = scope.get(expression.base)
        if definition is None:
            return set()
        passed = zip(definition.indices, expression.indices, strict=True)
        inner = {own: standing[given] for own, given in passed if given in standing}
        return _alone(definition.expression, inner, parameters, scope)
    if isinstance(expression, Binder):
        standing = {i: out for i, out in standing.items() if i not in expression.bound}
    if isinstance(expression, Mul):
        standing = _joined(expression, standing)
    parts = (a for a in expression.args if isinstance(a, Expr) and not isinstance(a, IndexedBase))
    return set().union(*(_alone(a, standing, parameters, scope) for a in parts))


def _joined(product: Mul, standing: Standing) -> Standing:
    """Add the indices that a delta of the product sets equal to an output index."""
    joined = dict(standing)
    for delta in [f for f in product.args if isinstance(f, KroneckerDelta)]:
        left, right = delta.args
        if isinstance(left, Index) and isinstance(right, Index):
            joined |= {a: joined[b] for a, b in ((left, right), (right, left)) if b in joined and a not in joined}
    return joined
