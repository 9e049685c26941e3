"""Scaled dot-product attention as one operator."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.activations import softmax
from codegen.capture.operators.pointwise import add, mul
from codegen.capture.operators.products import matmul
from codegen.capture.operators.rearranging import repeat_interleave
from codegen.capture.operators.selection import where
from codegen.capture.operators.shapes import transposed
from codegen.capture.operators.table import rule
from codegen.capture.values import ONE, ZERO, Value, not_negative


@rule("scaled_dot_product_attention")
def attention(
    form: Forming,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: Expr = ZERO,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Value:
    """``softmax(scale q k) v``, optionally masked; groups of queries may share keys and values."""
    if dropout_p != 0:
        raise refuse(f"attention with dropout_p = {dropout_p} is random", "set dropout to 0, or call .eval()")
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        count = sympy.cancel(query.shape[-3] / key.shape[-3])
        place = sympy.Integer(len(key.shape) - 3)
        key, value = (repeat_interleave(form, x, count, place) for x in (key, value))
    factor = 1 / sympy.sqrt(query.shape[-1]) if scale is None else scale
    products = matmul(form, form.factor(query), transposed(form, form.factor(key)))
    scores = mul(form, products, factor)
    if is_causal:
        seen = Value(products.shape[-2:], lambda i: not_negative(i[0] - i[1]), products.grains[-2:], "truth")
        scores = where(form, seen, scores, -sympy.oo)
    if attn_mask is not None:
        masked = attn_mask.kind == "truth"
        scores = where(form, attn_mask, scores, -sympy.oo) if masked else add(form, scores, attn_mask)
    return matmul(form, softmax(form, scores, -ONE), form.factor(value))
