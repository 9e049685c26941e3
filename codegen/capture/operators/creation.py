"""Tensors that depend on no input: constants, ranges, identities. Random ones are refused."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, KroneckerDelta

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.table import rule
from codegen.capture.values import ONE, ZERO, Value, broadcast, constant, plain


def filled(shape: Any, number: Any, kind: str = "real") -> Value:
    """Return a tensor of one number."""
    return broadcast(constant(number, kind), tuple(map(sympy.sympify, shape)))


def _kind(settings: dict[str, Any]) -> str:
    return "truth" if str(settings.get("dtype")) == "torch.bool" else "real"


@rule("zeros", "new_zeros", "zeros_like", "empty", "empty_like", "new_empty")
def zeros(form: Forming, size: Any = None, **settings: Any) -> Value:
    """Zeros."""
    return filled(form.shape, ZERO, _kind(settings))


@rule("ones", "new_ones", "ones_like")
def ones(form: Forming, size: Any = None, **settings: Any) -> Value:
    """Ones."""
    return filled(form.shape, ONE, _kind(settings))


@rule("full", "new_full", "full_like", "scalar_tensor", "fill", "fill_")
def full(form: Forming, **settings: Any) -> Value:
    """A tensor filled with one number."""
    number = next(settings[k] for k in ("fill_value", "value", "s") if k in settings)
    if isinstance(number, Value):
        return broadcast(number, form.shape)
    return filled(form.shape, number, _kind(settings))


@rule("zero_")
def zero_(form: Forming, self: Value) -> Value:
    """Zeros."""
    return filled(self.shape, ZERO)


@rule("arange")
def arange(form: Forming, end: Expr, start: Expr = ZERO, step: Expr = ONE, **settings: Any) -> Value:
    """``start + step k``."""
    first, by = sympy.sympify(start), sympy.sympify(step)
    kind = "integer" if first.is_integer and by.is_integer else "real"
    return Value(form.shape, lambda i: sympy.expand(first + by * i[0]), kind=kind)


@rule("linspace")
def linspace(form: Forming, start: Expr, end: Expr, steps: Expr, **settings: Any) -> Value:
    """Equally spaced numbers."""
    return Value(form.shape, lambda i: start + (end - start) * i[0] / (steps - 1))


@rule("eye")
def eye(form: Forming, n: Expr, m: Any = None, **settings: Any) -> Value:
    """Ones on the diagonal."""
    rows, columns = form.shape
    return Value((rows, columns), lambda i: KroneckerDelta(i[0], i[1]), (plain(rows), plain(columns)))


@rule(
    "rand",
    "randn",
    "randint",
    "rand_like",
    "randn_like",
    "bernoulli",
    "bernoulli_",
    "normal",
    "normal_",
    "uniform_",
    "multinomial",
    "randperm",
    "exponential_",
    "rrelu",
    "poisson",
)
def random(form: Forming, **settings: Any) -> Value:
    """Random numbers are refused: a derivation is about one forward map."""
    raise refuse("random numbers are drawn in forward", "pass them as an input, or call .eval() in the factory")
