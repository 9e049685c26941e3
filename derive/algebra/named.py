"""Functions that keep their name in results: ``silu(v)`` differentiates to ``silu'(v)``, never to exponentials.

    relu(v) = max(v, 0)            relu'(v) = step(v)
    sigmoid(v) = 1/(1 + exp(-v))   softplus(v) = log(1 + exp(v))      softplus'(v) = sigmoid(v)
    silu(v) = v sigmoid(v)         gelu(v) = v (1 + erf(v/sqrt 2))/2  erf(v), erf'(v) = 2 exp(-v^2)/sqrt(pi)
    elu(v) = max(v, 0) + exp(min(v, 0)) - 1
    gelu_tanh(v) = v (1 + tanh(sqrt(2/pi) (v + 0.044715 v^3)))/2

``spelled_out`` replaces a name by its definition, for code that needs the function itself (limits, printing).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import sympy
from sympy import Dummy, Expr, Rational

HIGHEST_ORDER = 4


class Named(sympy.Function):
    """A function of one real argument, or one of its derivatives, under its name; ``order`` counts derivatives."""

    nargs = 1
    is_real = True
    stem: ClassVar[str] = ""
    order: ClassVar[int] = 0

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return the next derivative at the same argument; TypeError beyond the highest derivative with a name."""
        if self.order == HIGHEST_ORDER:
            raise TypeError(f"no name for derivative {self.order + 1} of {self.stem}")
        after = _FIRST.get(self.stem) if self.order == 0 else None
        return after(self.args[0]) if after else named(self.stem, self.order + 1)(self.args[0])

    def _eval_is_real(self) -> bool:
        return True

    def _eval_is_positive(self) -> bool | None:
        return True if (self.stem, self.order) in _POSITIVE else None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if (self.stem, self.order) in (*_POSITIVE, ("relu", 0)) else None


_made: dict[tuple[str, int], type[Named]] = {}


def named(stem: str, order: int = 0) -> type[Named]:
    """Return the SymPy function of a name, or its derivative of an order: the same class for the same arguments."""
    assert stem in DEFINITIONS and 0 <= order <= HIGHEST_ORDER, (stem, order)
    if (stem, order) not in _made:
        members = {"stem": stem, "order": order, "__module__": __name__}
        _made[stem, order] = type(f"{stem}{'_' * order}", (Named,), members)
    return _made[stem, order]


def _sigmoid(v: Expr) -> Expr:
    return 1 / (1 + sympy.exp(-v))


def _gelu_tanh(v: Expr) -> Expr:
    return v * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (v + Rational(44715, 10**6) * v**3))) / 2


DEFINITIONS: dict[str, Callable[[Expr], Expr]] = {
    "relu": lambda v: sympy.Max(v, 0),
    "sigmoid": _sigmoid,
    "softplus": lambda v: sympy.log(1 + sympy.exp(v)),
    "silu": lambda v: v * _sigmoid(v),
    "gelu": lambda v: v * (1 + sympy.erf(v / sympy.sqrt(2))) / 2,
    "gelu_tanh": _gelu_tanh,
    "erf": sympy.erf,
    "elu": lambda v: sympy.Max(v, 0) + sympy.exp(sympy.Min(v, 0)) - 1,
}
"""The definition of each name, in SymPy's own functions."""

relu, sigmoid, softplus, silu, gelu, gelu_tanh, erf, elu = map(named, DEFINITIONS)
_FIRST: dict[str, Callable[[Expr], Expr]] = {"relu": sympy.Heaviside, "softplus": lambda v: sigmoid(v)}
_POSITIVE = (("sigmoid", 0), ("sigmoid", 1), ("softplus", 0), ("erf", 1), ("elu", 1))


@lru_cache(maxsize=200)
def _definition(stem: str, order: int) -> tuple[Dummy, Expr]:
    argument = Dummy("v", real=True)
    return argument, DEFINITIONS[stem](argument).diff(argument, order)


def definition(function: type[Named], argument: Expr) -> Expr:
    """Return the definition of a named function, at an argument."""
    slot, found = _definition(function.stem, function.order)
    return found.xreplace({slot: argument})


def spelled_out(expression: Any) -> Any:
    """Return an expression with every named function replaced by its definition."""
    if not expression.has(Named):
        return expression
    return expression.replace(lambda e: isinstance(e, Named), lambda e: definition(type(e), e.args[0]))
