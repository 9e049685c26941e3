"""Activation functions, the softmax family, and inactive dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Expr, Rational

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.pointwise import applied, no_infinity
from codegen.capture.operators.table import rule
from codegen.capture.values import ONE, ZERO, Indices, Value, axis, plain, pointwise, sliced
from derive.algebra.named import erf, gelu_tanh, relu, sigmoid, silu, softplus
from derive.algebra.named import gelu as exact_gelu
from derive.algebra.reductions import LogSumExp, Masked, Softmax

_SELU = (Rational("1.6732632423543772848170429916717"), Rational("1.0507009873554804934193349852946"))


def _positive(v: Expr) -> Expr:
    return relu(v)


def _negative(v: Expr) -> Expr:
    return -relu(-v)


_FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "relu": relu,
    "sigmoid": sigmoid,
    "silu": silu,
    "erf": erf,
    "relu6": lambda v: sympy.Min(sympy.Max(v, 0), 6),
    "hardsigmoid": lambda v: sympy.Min(sympy.Max(v + 3, 0), 6) / 6,
    "hardswish": lambda v: v * sympy.Min(sympy.Max(v + 3, 0), 6) / 6,
    "mish": lambda v: v * sympy.tanh(softplus(v)),
    "selu": lambda v: _SELU[1] * (_positive(v) + _SELU[0] * (sympy.exp(-relu(-v)) - 1)),
    "log_sigmoid": lambda v: -softplus(-v),
    "erfc": lambda v: 1 - erf(v),
}


def _enter(name: str, function: Callable[[Expr], Expr]) -> None:
    def apply(form: Forming, self: Value) -> Value:
        return applied(form, function, self)

    apply.__doc__ = f"``{name}(a)``, entry by entry."
    rule(name, f"{name}_")(apply)


for _name, _function in _FUNCTIONS.items():
    _enter(_name, _function)


@rule("gelu", "gelu_")
def gelu(form: Forming, self: Value, approximate: str = "none") -> Value:
    """``gelu(a)``, exact or by its tanh approximation."""
    return applied(form, exact_gelu if approximate == "none" else gelu_tanh, self)


@rule("softplus")
def softplus_rule(form: Forming, self: Value, beta: Expr = ONE, threshold: Expr = ONE) -> Value:
    """``log(1 + exp(beta a))/beta``."""
    return applied(form, lambda v: softplus(beta * v) / beta, self)


@rule("threshold", "threshold_")
def threshold_rule(form: Forming, self: Value, threshold: Expr, value: Expr) -> Value:
    """``a`` where it exceeds the threshold, else the value."""
    return applied(form, lambda v: value + (v - value) * sympy.Heaviside(v - threshold, 0), self)


@rule("hardshrink")
def hardshrink(form: Forming, self: Value, lambd: Expr) -> Value:
    """``a`` where ``|a| > l``, else zero."""
    return applied(form, lambda v: v * (sympy.Heaviside(v - lambd, 0) + sympy.Heaviside(-v - lambd, 0)), self)


@rule("softshrink")
def softshrink(form: Forming, self: Value, lambd: Expr) -> Value:
    """``max(a - l, 0) - max(-a - l, 0)``."""
    return applied(form, lambda v: relu(v - lambd) - relu(-v - lambd), self)


@rule("leaky_relu", "leaky_relu_")
def leaky_relu(form: Forming, self: Value, negative_slope: Expr) -> Value:
    """``max(a, 0) + slope min(a, 0)``."""
    return applied(form, lambda v: _positive(v) + negative_slope * _negative(v), self)


@rule("elu", "elu_")
def elu(form: Forming, self: Value, alpha: Expr = ONE, scale: Expr = ONE, input_scale: Expr = ONE) -> Value:
    """``max(a, 0) + alpha (exp(min(a, 0)) - 1)``."""
    return applied(form, lambda v: scale * (_positive(v) + alpha * (sympy.exp(-relu(-v) * input_scale) - 1)), self)


@rule("celu")
def celu(form: Forming, self: Value, alpha: Expr = ONE) -> Value:
    """``max(a, 0) + alpha (exp(min(a, 0)/alpha) - 1)``."""
    return applied(form, lambda v: _positive(v) + alpha * (sympy.exp(-relu(-v) / alpha) - 1), self)


@rule("prelu")
def prelu(form: Forming, self: Value, weight: Value) -> Value:
    """``max(a, 0) + w min(a, 0)``, one w a channel (axis 1) or one for all."""
    count, place = len(self.shape), min(1, len(self.shape) - 1)
    if weight.shape and weight.shape[0] == 1:
        slopes = weight.reindexed((), lambda i: (ZERO,))
    else:
        shape = tuple(weight.shape[0] if k == place else ONE for k in range(count))
        slopes = weight.reindexed(shape, lambda i: (i[place],))
    return pointwise(lambda v, w: _positive(v) + w * _negative(v), form.settle(self), slopes)


@rule("hardtanh", "hardtanh_")
def hardtanh(form: Forming, self: Value, min_val: Expr, max_val: Expr) -> Value:
    """``min(max(a, low), high)``."""
    return applied(form, lambda v: sympy.Min(sympy.Max(v, min_val), max_val), self)


@rule("glu")
def glu(form: Forming, self: Value, dim: Expr = -ONE) -> Value:
    """The first half along an axis times the sigmoid of the second."""
    place = axis(dim, len(self.shape))
    half = sympy.expand(self.shape[place] / 2)
    first, second = sliced(self, place, ZERO, half), sliced(self, place, half, half)
    return pointwise(lambda a, b: a * sigmoid(b), form.settle(first), form.settle(second))


@rule("dropout", "dropout_", "feature_dropout", "alpha_dropout", "native_dropout", "feature_alpha_dropout")
def dropout(form: Forming, input: Value, p: Expr, train: bool) -> Value:
    """The tensor itself if dropout is inactive; active dropout is random, and refused."""
    if train and p != 0:
        raise refuse(f"dropout with p = {p} is random in training", "build the module with dropout 0, or call .eval()")
    return input


def scores_and_whole(form: Forming, value: Value, dim: int) -> tuple[Value, Value]:
    """Return the scores of a softmax, settled and masked, and their logsumexp along the axis."""
    support = value.support
    entries = form.settle(Value(value.shape, value.at, value.grains, name=value.name))
    scores = pointwise(lambda a: a, entries)
    if support is not None:
        scores = Value(value.shape, lambda i: Masked(entries.at(i), support(i)), entries.grains)

    def whole(i: Indices) -> Expr:
        """Return the logarithm of the sum of exponentials along the axis."""
        digits, position = form.axis_indices(value.shape[dim], entries.grains[dim], batch=False)
        return LogSumExp(scores.at((*i[:dim], position, *i[dim + 1 :])), *digits)

    shape = tuple(ONE if k == dim else n for k, n in enumerate(value.shape))
    return scores, Value(shape, whole, tuple(plain(ONE) if k == dim else g for k, g in enumerate(entries.grains)))


@rule("softmax", "_softmax")
def softmax(form: Forming, self: Value, dim: Expr, dtype: Any = None, half_to_float: bool = False) -> Value:
    """``exp(a[j]) / sum[k](exp(a[k]))``; entries at minus infinity contribute nothing."""
    scores, whole = scores_and_whole(form, self, axis(dim, len(self.shape)))
    return pointwise(Softmax, scores, whole)


@rule("softmin")
def softmin(form: Forming, self: Value, dim: Expr, dtype: Any = None) -> Value:
    """The softmax of the negative."""
    return softmax(form, pointwise(lambda a: -a, self), dim)


@rule("log_softmax", "_log_softmax")
def log_softmax(form: Forming, self: Value, dim: Expr, dtype: Any = None, half_to_float: bool = False) -> Value:
    """``a[j] - log sum[k](exp(a[k]))``."""
    no_infinity(self)
    scores, whole = scores_and_whole(form, self, axis(dim, len(self.shape)))
    return pointwise(lambda a, total: a - total, scores, whole)


@rule("logsumexp")
def logsumexp(form: Forming, self: Value, dim: Any, keepdim: bool = False) -> Value:
    """``log sum[k](exp(a[k]))`` along one axis."""
    from codegen.capture.operators.reductions import one_axis, without

    place = one_axis(dim, len(self.shape), "logsumexp")
    _, found = scores_and_whole(form, self, place)
    return found if keepdim else without(found, [place])
