"""Convolutions: sums over the patch of each position; entries outside the input are zero."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, KroneckerDelta

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.products import plus
from codegen.capture.operators.table import rule
from codegen.capture.values import (
    ZERO,
    Indices,
    Piece,
    Value,
    digits_of,
    plain,
    selected,
    whole_quotient,
    with_axis,
    within,
)


def each(value: Any, count: int) -> tuple[Expr, ...]:
    """Return a setting for each spatial axis."""
    given = tuple(map(sympy.sympify, value)) if isinstance(value, tuple) else (sympy.sympify(value),)
    return given * count if len(given) == 1 else given


def quotient(a: Expr, b: Expr, what: str) -> Expr:
    """Return ``a / b`` if that is a polynomial, else refuse."""
    found = whole_quotient(a, b)
    if found is None:
        raise refuse(
            f"{what}: {a} channels do not divide into {b} groups",
            "make the number of channels a multiple of the groups",
        )
    return found


@rule("conv1d", "conv2d", "conv3d")
def convolution(
    form: Forming,
    input: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Expr,
) -> Value:
    """``z[o, p] = sum[c, k](W[o, c, k] x[c, stride p + dilation k - padding]) + b[o]``, for each group separately."""
    return _batched(form, input, weight, bias, (stride, padding, dilation, groups), _convolved)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(
    form: Forming,
    input: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Expr,
    dilation: Any,
) -> Value:
    """Each input position adds a scaled filter to the output."""
    return _batched(form, input, weight, bias, (stride, padding, dilation, groups, output_padding), _transposed)


@rule("convolution")
def any_convolution(
    form: Forming,
    input: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: Expr,
) -> Value:
    """A convolution or a transposed one."""
    if transposed:
        return transposed_convolution(form, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(form, input, weight, bias, stride, padding, dilation, groups)


def _batched(form: Forming, input: Value, weight: Value, bias: Value | None, settings: Any, apply: Any) -> Value:
    """Apply ``apply`` to a batch of images; a single image becomes a batch of one."""
    space = len(weight.shape) - 2
    single = len(input.shape) == space + 1
    image = form.factor(with_axis(input, 0) if single else input)
    found = apply(form, image, form.factor(weight), *settings)
    if bias is not None:
        for k in range(space):
            bias = with_axis(bias, 1 + k)
        found = plus(found, bias)
    return selected(found, 0, ZERO) if single else found


def _convolved(
    form: Forming, image: Value, weight: Value, stride: Any, padding: Any, dilation: Any, groups: Expr
) -> Value:
    space = len(weight.shape) - 2
    steps, gaps, lengths = each(stride, space), each(dilation, space), weight.shape[2:]
    if isinstance(padding, str):
        around = [(ZERO, ZERO)] * space
        if padding == "same":
            totals = [sympy.expand(d * (k - 1)) for d, k in zip(gaps, lengths, strict=True)]
            around = [(_half(t), t) for t in totals]
    else:
        around = [(p, sympy.expand(2 * p)) for p in each(padding, space)]
    outputs = [
        counted(sympy.expand(n + both - d * (k - 1) - 1), s)
        for n, (_, both), d, k, s in zip(image.shape[2:], around, gaps, lengths, steps, strict=True)
    ]
    channels, per_group = weight.shape[0], weight.shape[1]
    members = quotient(channels, groups, "a convolution")

    def at(i: Indices) -> Expr:
        """Return the output at an image, a channel and a position."""
        group = digits_of(i[1], (groups, members))[0] if groups != 1 else ZERO

        def term(bound: Indices) -> Expr:
            """Return one product, 0 where the patch leaves the image."""
            places = [
                sympy.expand(s * p + d * k - before)
                for s, p, d, k, (before, _) in zip(steps, i[2:], gaps, bound[1:], around, strict=True)
            ]
            guards = [within(place, n) for place, n in zip(places, image.shape[2:], strict=True)]
            entry = image.at((i[0], sympy.expand(group * per_group + bound[0]), *places))
            return sympy.Mul(weight.at((i[1], *bound)), entry, *guards)

        grain = image.grains[1] if groups == 1 and len(image.grains[1]) > 1 else plain(per_group)
        if groups == 1 and len(image.grains[1]) == 1:
            grain = image.grains[1]
        return form.over([(per_group, grain), *((k, plain(k)) for k in lengths)], term)

    channel_grain = (Piece(ZERO, (groups, members)),) if groups != 1 else weight.grains[0]
    return Value((image.shape[0], channels, *outputs), at, (image.grains[0], channel_grain, *map(plain, outputs)))


def _half(total: Expr) -> Expr:
    half = sympy.expand(total / 2)
    if any(c.q != 1 for c in half.atoms(sympy.Rational)):
        raise refuse(
            f"padding 'same' of {total} entries is unequal on the two sides", "use a filter of odd length, 2*k + 1"
        )
    return half


def counted(span: Expr, step: Expr) -> Expr:
    """Return ``span // step + 1``; refuse unless it is a polynomial."""
    if step == 1:
        return sympy.expand(span + 1)
    whole, rest = ZERO, ZERO
    for term in sympy.Add.make_args(span):
        share = whole_quotient(term, step)
        if share is not None:
            whole += share
        else:
            rest += term
    if rest == 0:
        return sympy.expand(whole + 1)
    if rest.is_Integer and step.is_Integer:
        return sympy.expand(whole + int(rest) // int(step) + 1)
    raise refuse(
        f"a stride of {step} does not divide {span} at all sizes, so the number of positions is no polynomial",
        "make the length a multiple of the stride, such as 2*h",
    )


def _transposed(
    form: Forming, image: Value, weight: Value, stride: Any, padding: Any, dilation: Any, groups: Expr, extra: Any
) -> Value:
    space = len(weight.shape) - 2
    steps, pads, gaps, more = (each(v, space) for v in (stride, padding, dilation, extra))
    lengths, members = weight.shape[2:], weight.shape[1]
    outputs = [
        sympy.expand((n - 1) * s - 2 * p + d * (k - 1) + e + 1)
        for n, s, p, d, k, e in zip(image.shape[2:], steps, pads, gaps, lengths, more, strict=True)
    ]
    per_group = quotient(weight.shape[0], groups, "a transposed convolution")

    def at(i: Indices) -> Expr:
        """Return the output at an image, a channel and a position."""
        group, member = digits_of(i[1], (groups, members)) if groups != 1 else (ZERO, i[1])

        def term(bound: Indices) -> Expr:
            """Return one product, 0 unless the input position contributes to the output position."""
            channel = sympy.expand(group * per_group + bound[0])
            filters, places = bound[1 : 1 + space], bound[1 + space :]
            meets = [
                KroneckerDelta(q, sympy.expand(s * p + d * k - pad))
                for q, s, p, d, k, pad in zip(i[2:], steps, places, gaps, filters, pads, strict=True)
            ]
            return sympy.Mul(weight.at((channel, member, *filters)), image.at((i[0], channel, *places)), *meets)

        axes = [(per_group, plain(per_group)), *((k, plain(k)) for k in (*lengths, *image.shape[2:]))]
        return form.over(axes, term)

    channels = sympy.expand(members * groups)
    grain = (Piece(ZERO, (groups, members)),) if groups != 1 else plain(channels)
    return Value((image.shape[0], channels, *outputs), at, (image.grains[0], grain, *map(plain, outputs)))
