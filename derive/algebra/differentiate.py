"""Differentiation of indexed sums with respect to one tensor entry, through named intermediates.

    d W[i, j] / d W[a, b] = delta(i, a) delta(j, b)          d u[e] / d W[a, b] = (d definition / d W[a, b]) at e
    d sum[j](F) = sum[j](d F), j fresh if it is an index of the entry           guards are constants
    d silu(v) = silu'(v) d v, and so for every named function                  other reductions: see ``reductions``

The entry's own indices must be free everywhere: no sum may bind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul, Pow
from sympy.core.function import Application

from derive.algebra.eliminate import is_guard
from derive.algebra.nodes import AtZero, IndexedSum, PartialDerivative, indices_in, rebuilt, rename, tensor
from derive.algebra.normal import normalise
from derive.algebra.patience import go_on
from derive.algebra.reductions import Reduction

if TYPE_CHECKING:
    from derive.forward_map import Definition

Scope = Mapping[IndexedBase, "Definition"]


def differentiate(expression: Expr, variable: Expr, scope: Scope) -> Expr:
    """Return the total derivative of ``expression`` with respect to a tensor entry or a scalar symbol.

    ``scope`` maps intermediates to their definitions; the result mentions intermediates, not their expansions.
    """
    if expression == variable and not isinstance(variable, Indexed):
        return sympy.S.One
    if isinstance(expression, Indexed):
        return _entry(expression, variable, scope)
    if not expression.args or is_guard(expression) or isinstance(expression, IndexedBase):
        return sympy.S.Zero
    if isinstance(expression, IndexedSum):
        clash = indices_in(variable) & set(expression.bound)
        body, bound = expression.renamed() if clash else (expression.body, expression.bound)
        return IndexedSum(differentiate(body, variable, scope), *bound)
    if isinstance(expression, Reduction):
        body, bound = expression.renamed()
        moved = differentiate(body, variable, scope)
        return sympy.S.Zero if moved == 0 else expression.slope(body, bound, moved)
    if isinstance(expression, Add):
        return Add(*(differentiate(a, variable, scope) for a in expression.args))
    if isinstance(expression, Mul):
        return _product_rule(expression, variable, scope)
    return _chain_rule(expression, variable, scope)


def _entry(entry: Indexed, variable: Expr, scope: Scope) -> Expr:
    if isinstance(variable, Indexed) and entry.base == variable.base:
        return Mul(*(KroneckerDelta(a, b) for a, b in zip(entry.indices, variable.indices, strict=True)))
    definition = scope.get(entry.base)
    if definition is None:
        return sympy.S.Zero
    go_on()
    return differentiate(definition.at(entry.indices), variable, scope)


def _product_rule(expression: Expr, variable: Expr, scope: Scope) -> Expr:
    terms = []
    for position, factor in enumerate(expression.args):
        slope = differentiate(factor, variable, scope)
        if slope != 0:
            rest = expression.args[:position] + expression.args[position + 1 :]
            terms.append(Mul(*rest, slope))
    return Add(*terms)


def _chain_rule(expression: Expr, variable: Expr, scope: Scope) -> Expr:
    """Differentiate a power or an elementary function of one or more arguments."""
    if isinstance(expression, Pow):
        slope = differentiate(expression.base, variable, scope)
        if differentiate(expression.exp, variable, scope) != 0:
            raise TypeError(f"cannot differentiate a variable exponent: {expression}")
        return expression.exp * expression.base ** (expression.exp - 1) * slope
    if not isinstance(expression, Application):
        raise TypeError(f"no derivative rule for {type(expression).__name__}: {expression}")
    terms = []
    for position, argument in enumerate(expression.args, start=1):
        slope = differentiate(argument, variable, scope)
        if slope != 0:
            terms.append(outer_derivative(expression, position) * slope)
    return Add(*terms)


def outer_derivative(expression: Expr, position: int) -> Expr:
    """Return the derivative of an elementary function with respect to its argument ``position`` (from 1).

    The derivative of ``max`` is 1 where the argument is the largest and 0 elsewhere, written with Heaviside steps; at a
    tie there is no derivative, and nothing is claimed.
    """
    if isinstance(expression, sympy.Abs):
        return sympy.sign(expression.args[0])
    if isinstance(expression, sympy.sign | sympy.Heaviside):
        return sympy.S.Zero
    if isinstance(expression, sympy.Max | sympy.Min):
        # In pairs, so that the product of two different derivatives has a factor H(a - b) H(b - a), which vanishes.
        way = 1 if isinstance(expression, sympy.Max) else -1
        chosen = expression.args[position - 1]
        return Mul(*(sympy.Heaviside(way * (chosen - a)) for k, a in enumerate(expression.args, 1) if k != position))
    slots = [sympy.Dummy(real=True) for _ in expression.args]
    applied = expression.func(*slots)
    slope = applied.fdiff(position)
    return slope.xreplace(dict(zip(slots, expression.args, strict=True)))


def carry_out(expression: Expr, scope: Scope) -> Expr:
    """Return the expression with every inert derivative carried out."""
    if isinstance(expression, PartialDerivative):
        inner = carry_out(expression.expression, scope)
        return differentiate(inner, expression.variable, scope)
    if isinstance(expression, AtZero):
        return _first_order(carry_out(expression.args[0], scope), expression.args[1], scope)
    if not expression.has(PartialDerivative, AtZero):
        return expression
    return expression.func(*(carry_out(a, scope) if isinstance(a, sympy.Expr) else a for a in expression.args))


def _first_order(expression: Expr, step: Expr, scope: Scope) -> Expr:
    """Return the derivative with respect to ``step`` at zero, where a moved tensor ``u'`` is again ``u``."""
    slope = rename(differentiate(expression, step, scope), {step: sympy.S.Zero})
    still: dict[IndexedBase, IndexedBase] = {}
    for base, definition in scope.items():
        if not definition.name.endswith("'"):
            continue
        unmoved = tensor(definition.name[:-1])
        at_rest = normalise(rename(rename(definition.expression, {step: sympy.S.Zero}), still))
        original = scope[unmoved].at(definition.indices) if unmoved in scope else unmoved[definition.indices]
        if at_rest == normalise(original):
            still[base] = unmoved
    return rename(slope, still)


def expand_definitions(expression: Expr, scope: Scope) -> Expr:
    """Return the expression with every intermediate replaced by its definition, down to inputs and parameters."""
    if isinstance(expression, Indexed):
        definition = scope.get(expression.base)
        return expression if definition is None else expand_definitions(definition.at(expression.indices), scope)
    if not expression.args or isinstance(expression, IndexedBase):
        return expression
    # No index is captured under a sum: an expanded definition has only the indices that its entry already has.
    return rebuilt(expression, [expand_definitions(a, scope) if isinstance(a, Expr) else a for a in expression.args])
