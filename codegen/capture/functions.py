"""The named functions of the derivations, as the rules of operators write them."""

from __future__ import annotations

from collections.abc import Callable

import sympy
from sympy import Expr, Rational

Function = Callable[[Expr], Expr]


def sigmoid(v: Expr) -> Expr:
    """``1/(1 + exp(-v))``."""
    return 1 / (1 + sympy.exp(-v))


def relu(v: Expr) -> Expr:
    """``max(v, 0)``."""
    return sympy.Max(v, 0)


def softplus(v: Expr) -> Expr:
    """``log(1 + exp(v))``."""
    return sympy.log(1 + sympy.exp(v))


def silu(v: Expr) -> Expr:
    """``v sigmoid(v)``."""
    return v * sigmoid(v)


def erf(v: Expr) -> Expr:
    """The error function."""
    return sympy.erf(v)


def gelu(v: Expr) -> Expr:
    """``v (1 + erf(v/sqrt 2))/2``."""
    return v * (1 + sympy.erf(v / sympy.sqrt(2))) / 2


def gelu_tanh(v: Expr) -> Expr:
    """``v (1 + tanh(sqrt(2/pi) (v + 0.044715 v^3)))/2``."""
    return v * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (v + Rational(44715, 10**6) * v**3))) / 2
