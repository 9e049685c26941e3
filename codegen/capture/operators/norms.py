"""Normalisers: over an axis, over groups of channels, over the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.pointwise import as_value
from codegen.capture.operators.reductions import averaged, centred, spread
from codegen.capture.operators.table import rule
from codegen.capture.values import ONE, ZERO, Value, plain, pointwise, reshaped


def scaled(form: Forming, value: Value, gain: Value | None, offset: Value | None) -> Value:
    """Return a tensor times a gain plus an offset."""
    if gain is not None:
        value = pointwise(lambda x, w: x * w, value, gain)
    if offset is not None:
        value = pointwise(lambda x, b: x + b, value, offset)
    return value


def standardised(form: Forming, value: Value, axes: Sequence[int], eps: Expr) -> Value:
    """Return ``(x - mean) / sqrt(variance + eps)`` along axes."""
    differences = centred(form, value, axes)
    variance = spread(form, differences, axes, ZERO)
    return pointwise(lambda c, v: c / sympy.sqrt(v + eps), differences, variance)


def along(value: Value | None, place: int, count: int) -> Value | None:
    """Return a vector as a tensor that varies along one axis."""
    if value is None:
        return None
    own = value
    shape = tuple(own.shape[0] if k == place else ONE for k in range(count))
    grains = tuple(own.grains[0] if k == place else plain(ONE) for k in range(count))
    return Value(shape, lambda i: own.at((i[place],)), grains)


@rule("layer_norm")
def layer_norm(
    form: Forming,
    input: Value,
    normalized_shape: Any,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: Expr = ZERO,
    cudnn_enable: bool = True,
) -> Value:
    """``g (x - mean)/sqrt(variance + eps) + b`` along the last axes."""
    axes = list(range(len(input.shape) - len(normalized_shape), len(input.shape)))
    return scaled(form, standardised(form, input, axes, eps), weight, bias)


@rule("rms_norm")
def rms_norm(form: Forming, input: Value, normalized_shape: Any, weight: Value | None = None, eps: Any = None) -> Value:
    """``g x/sqrt(mean of squares + eps)`` along the last axes; the default eps is that of float64."""
    axes = list(range(len(input.shape) - len(normalized_shape), len(input.shape)))
    entries = form.settle(input)
    squares = form.settle(averaged(form, pointwise(lambda x: x**2, entries), axes), "squares")
    small = sympy.Rational(1, 2**52) if eps is None else eps
    return scaled(form, pointwise(lambda x, q: x / sympy.sqrt(q + small), entries, squares), weight, None)


@rule("group_norm")
def group_norm(
    form: Forming,
    input: Value,
    num_groups: Expr,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: Expr = ZERO,
    cudnn_enabled: bool = True,
) -> Value:
    """``g (x - mean)/sqrt(variance + eps) + b`` over the channels of a group and all positions."""
    n, channels, *space = input.shape
    per_group = sympy.cancel(channels / num_groups)
    apart = reshaped(input, (n, num_groups, per_group, *space), form.size)
    found = standardised(form, apart, list(range(2, len(apart.shape))), eps)
    together = reshaped(found, input.shape, form.size)
    return scaled(form, together, along(weight, 1, len(input.shape)), along(bias, 1, len(input.shape)))


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit_functional")
def batch_norm(
    form: Forming,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: Expr,
    eps: Expr,
    cudnn_enabled: bool = True,
) -> Value:
    """Each channel standardised: by batch statistics in training, by running statistics in evaluation."""
    count = len(input.shape)
    gain, offset = along(weight, 1, count), along(bias, 1, count)
    if training:
        form.notes.append("The batch norm uses the statistics of the batch, as in training.")
        return scaled(form, standardised(form, input, [0, *range(2, count)], eps), gain, offset)
    middle, variance = along(running_mean, 1, count), along(running_var, 1, count)
    if middle is None or variance is None:
        raise refuse("a batch norm in evaluation has no running statistics", "call .train(), or track statistics")
    found = pointwise(
        lambda x, m, v: (x - m) / sympy.sqrt(v + eps), form.factor(input), as_value(middle), as_value(variance)
    )
    return scaled(form, found, gain, offset)


@rule("instance_norm")
def instance_norm(
    form: Forming,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    use_input_stats: bool,
    momentum: Expr,
    eps: Expr,
    cudnn_enabled: bool = True,
) -> Value:
    """Each channel of each image standardised."""
    if not use_input_stats:
        raise refuse("an instance norm uses running statistics", "set track_running_stats=False")
    count = len(input.shape)
    found = standardised(form, input, list(range(2, count)), eps)
    return scaled(form, found, along(weight, 1, count), along(bias, 1, count))


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(form: Forming, v: Value, g: Value, dim: Expr = ZERO) -> Value:
    """``g v/||v||``, the norm taken over all axes but one."""
    from codegen.capture.operators.reductions import length

    place = int(dim) % len(v.shape)
    lengths = length(form, v, [k for k in range(len(v.shape)) if k != place])
    return pointwise(lambda a, b, c: a * b / c, v, g, lengths)
