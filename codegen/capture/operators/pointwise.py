"""Arithmetic and elementary functions, entry by entry, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Expr, Rational

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.table import rule
from codegen.capture.values import ONE, Indices, Value, broadcast_at, constant, pointwise
from derive.algebra.reductions import Stopped

_LARGEST_POWER = 16


def as_value(entry: Any) -> Value:
    """Return a tensor unchanged, and a number as a tensor without axes."""
    if isinstance(entry, Value):
        return entry
    return constant(entry, "integer" if sympy.sympify(entry).is_integer else "real")


def as_real(value: Value) -> Value:
    """Return a tensor of integers or of truths as one of real numbers."""
    return Value(value.shape, value.at, value.grains, "real", value.support, value.name)


def joined_kind(*values: Value) -> str:
    """Return the kind (``real``, ``integer``, ``truth``) of a sum or product of tensors."""
    kinds = {v.kind for v in values}
    return "real" if "real" in kinds else "integer"


def supported(values: tuple[Value, ...], found: Value) -> Value:
    """Return a sum of tensors marked as minus infinity wherever one of the summands is."""
    masked = [v for v in values if v.support is not None]
    if not masked:
        return found

    def support(i: Indices) -> Expr:
        """Return 1 where all summands are finite."""
        return sympy.Mul(*(v.support(broadcast_at(v, i)) for v in masked))  # type: ignore[misc]

    return Value(found.shape, found.at, found.grains, found.kind, support, found.name)


def no_infinity(*values: Value) -> None:
    """Refuse tensors that contain minus infinity: only a softmax, a sum or a maximum may take them."""
    if any(v.support is not None for v in values):
        raise refuse("minus infinity is used outside a softmax", "mask the scores just before the softmax")


def applied(form: Forming, function: Callable[..., Expr], *values: Value) -> Value:
    """Return a function of tensors, each settled first, so that the function's argument stays short."""
    no_infinity(*values)
    return pointwise(function, *(form.settle(v) for v in values))


@rule("add", "add_")
def add(form: Forming, self: Any, other: Any, alpha: Expr = ONE) -> Value:
    """``a + alpha b``."""
    left, right = as_value(self), as_value(other)
    found = pointwise(lambda a, b: a + alpha * b, left, right, kind=joined_kind(left, right))
    return supported((left, right), found)


@rule("sub", "sub_", "subtract")
def sub(form: Forming, self: Any, other: Any, alpha: Expr = ONE) -> Value:
    """``a - alpha b``."""
    left, right = as_value(self), as_value(other)
    no_infinity(right)
    return supported((left,), pointwise(lambda a, b: a - alpha * b, left, right, kind=joined_kind(left, right)))


@rule("rsub")
def rsub(form: Forming, self: Any, other: Any, alpha: Expr = ONE) -> Value:
    """``b - alpha a``."""
    return sub(form, other, self, alpha)


@rule("mul", "mul_", "multiply")
def mul(form: Forming, self: Any, other: Any) -> Value:
    """``a b``."""
    left, right = as_value(self), as_value(other)
    kind = joined_kind(left, right) if "truth" not in (left.kind, right.kind) or left.kind != right.kind else "truth"
    if left.shape or right.shape:
        left, right = (scaled_factor(form, v, o) for v, o in ((left, right), (right, left)))
    return supported((left, right), pointwise(lambda a, b: a * b, left, right, kind=kind))


def scaled_factor(form: Forming, value: Value, other: Value) -> Value:
    """Return a factor of a product, settled if the product would copy or expand a long expression."""
    if not other.shape and not other.at(()).atoms(sympy.Indexed):
        return value
    return form.factor(value)


@rule("div", "div_", "true_divide", "divide")
def div(form: Forming, self: Any, other: Any, rounding_mode: Any = None) -> Value:
    """``a / b``."""
    if rounding_mode is not None:
        raise refuse("a division rounds its result", "divide without rounding_mode, or use a slice")
    left, right = as_value(self), as_value(other)
    no_infinity(right)
    if not right.shape and not right.at(()).atoms(sympy.Indexed):
        return supported((left,), pointwise(lambda a, b: a / b, left, right))
    found = pointwise(lambda a, b: a / b, scaled_factor(form, left, right), form.settle(right))
    return supported((left,), found)


@rule("neg", "negative")
def neg(form: Forming, self: Value) -> Value:
    """``-a``."""
    no_infinity(self)
    return pointwise(lambda a: -a, self, kind=joined_kind(self))


@rule("pow", "pow_", "float_power")
def power(form: Forming, self: Any, exponent: Any) -> Value:
    """``a ** p`` for a number ``p``; ``exp(p log(a))`` for a tensor ``p``, assuming a positive base."""
    base = as_value(self)
    if isinstance(exponent, Value):
        number = not base.shape and not base.at(()).atoms(sympy.Indexed)
        if number and not base.at(()).is_positive:
            raise refuse("a power has a base that is not positive", "use a positive base")
        if not number:
            form.notes.append("The base of a power whose exponent is a tensor is assumed to be positive.")
        base = base if number else form.settle(base)
        return pointwise(lambda a, p: sympy.exp(p * sympy.log(a)), base, form.settle(exponent))
    exponent = sympy.sympify(exponent)
    if exponent == 1:
        return base
    if abs(exponent) > _LARGEST_POWER:
        raise refuse(f"the exponent {exponent} is too large", f"use exponents up to {_LARGEST_POWER}")
    return applied(form, lambda a: a**exponent, base)


def root(value: Value) -> Value:
    """Return the square root of a settled tensor."""
    return pointwise(sympy.sqrt, value)


def maximum(left: Value, right: Value) -> Value:
    """Return the larger of two settled tensors, entry by entry."""
    return pointwise(lambda a, b: sympy.Max(a, b), left, right)


_FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "sqrt": sympy.sqrt,
    "rsqrt": lambda a: a ** Rational(-1, 2),
    "reciprocal": lambda a: 1 / a,
    "square": lambda a: a**2,
    "exp": sympy.exp,
    "exp2": lambda a: sympy.exp(a * sympy.log(2)),
    "expm1": lambda a: sympy.exp(a) - 1,
    "log": sympy.log,
    "log1p": lambda a: sympy.log(1 + a),
    "log2": lambda a: sympy.log(a) / sympy.log(2),
    "log10": lambda a: sympy.log(a) / sympy.log(10),
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "tanh": sympy.tanh,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "atan": sympy.atan,
    "asin": sympy.asin,
    "acos": sympy.acos,
    "abs": sympy.Abs,
    "sign": sympy.sign,
    "deg2rad": lambda a: a * sympy.pi / 180,
    "sinc": lambda a: sympy.sin(sympy.pi * a) / (sympy.pi * a),
}


def _enter(name: str, function: Callable[[Expr], Expr]) -> None:
    def apply(form: Forming, self: Value) -> Value:
        return applied(form, function, self)

    apply.__doc__ = f"``{name}(a)``, entry by entry."
    rule(name, f"{name}_")(apply)


for _name, _function in _FUNCTIONS.items():
    _enter(_name, _function)


@rule("detach")
def detach(form: Forming, self: Value) -> Value:
    """The tensor's values, which a step holds fixed."""
    return applied(form, Stopped, self)


@rule("maximum", "fmax")
def larger(form: Forming, self: Value, other: Value) -> Value:
    """``max(a, b)``, entry by entry."""
    return applied(form, sympy.Max, self, other)


@rule("minimum", "fmin")
def smaller(form: Forming, self: Value, other: Value) -> Value:
    """``min(a, b)``, entry by entry."""
    return applied(form, sympy.Min, self, other)


@rule("clamp", "clamp_", "clip", "clamp_min", "clamp_max", "clamp_min_")
def clamp(form: Forming, self: Value, min: Any = None, max: Any = None) -> Value:
    """``min(max(a, low), high)``."""
    found = form.settle(self)
    if min is not None:
        found = applied(form, sympy.Max, found, as_value(min))
    if max is not None:
        found = applied(form, sympy.Min, found, as_value(max))
    return found


@rule("addcmul")
def addcmul(form: Forming, self: Value, tensor1: Value, tensor2: Value, value: Expr = ONE) -> Value:
    """``a + value b c``."""
    return add(form, self, mul(form, tensor1, tensor2), value)


@rule("addcdiv")
def addcdiv(form: Forming, self: Value, tensor1: Value, tensor2: Value, value: Expr = ONE) -> Value:
    """``a + value b / c``."""
    return add(form, self, div(form, tensor1, tensor2), value)


@rule("lerp")
def lerp(form: Forming, self: Value, end: Value, weight: Any) -> Value:
    """``a + w (b - a)``."""
    return add(form, self, mul(form, form.factor(sub(form, end, self)), weight))


@rule("hypot")
def hypot(form: Forming, self: Value, other: Value) -> Value:
    """``sqrt(a^2 + b^2)``."""
    return applied(form, lambda a, b: sympy.sqrt(a**2 + b**2), self, other)
