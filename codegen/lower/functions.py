"""Rewrite named functions in terms of functions that every target prints, in forms that do not overflow.

relu(v)              max(v, 0)
sigmoid'(v)          sigmoid(v)*(1 - sigmoid(v))          sigmoid itself is printed as one function
silu(v)              v*sigmoid(v)
silu'(v)             sigmoid(v)*(1 + v*(1 - sigmoid(v)))
softplus(v)          max(v, 0) + log(1 + exp(-|v|))
others               their definitions, which do not overflow
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy
from sympy import Expr

from derive.algebra.named import Named, definition, sigmoid

_FORMS: Mapping[tuple[str, int], Callable[[Expr], Expr]] = {
    ("sigmoid", 0): sigmoid,
    ("sigmoid", 1): lambda v: sigmoid(v) * (1 - sigmoid(v)),
    ("silu", 0): lambda v: v * sigmoid(v),
    ("silu", 1): lambda v: sigmoid(v) * (1 + v * (1 - sigmoid(v))),
    ("softplus", 0): lambda v: sympy.Max(v, 0) + sympy.log(1 + sympy.exp(-sympy.Abs(v))),
}


def printable(expression: Expr) -> Expr:
    """Return an expression whose only named function is ``sigmoid``."""
    if not expression.has(Named):
        return expression
    return expression.replace(lambda e: isinstance(e, Named), lambda e: _form(type(e), e.args[0]))


def _form(function: type[Named], argument: Expr) -> Expr:
    form = _FORMS.get((function.stem, function.order))
    return form(argument) if form else definition(function, argument)
