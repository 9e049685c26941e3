"""Cells of recurrent networks: one step, gates apart."""

from __future__ import annotations

from typing import Any

import sympy

from codegen.capture.forming import Forming
from codegen.capture.operators.pointwise import applied
from codegen.capture.operators.products import linear, plus
from codegen.capture.operators.table import rule
from codegen.capture.values import Value, pointwise, sliced
from derive.algebra.named import relu, sigmoid


def _gates(value: Value, count: int) -> list[Value]:
    """Return the blocks of the last axis."""
    place = len(value.shape) - 1
    length = sympy.cancel(value.shape[place] / count)
    return [sliced(value, place, sympy.expand(k * length), length) for k in range(count)]


def _both(form: Forming, input: Value, hx: Value, w_ih: Value, w_hh: Value, b_ih: Any, b_hh: Any) -> Value:
    return plus(linear(form, input, w_ih, b_ih), linear(form, hx, w_hh, b_hh))


@rule("lstm_cell")
def lstm_cell(
    form: Forming, input: Value, hx: Any, w_ih: Value, w_hh: Value, b_ih: Value | None = None, b_hh: Value | None = None
) -> tuple[Value, Value]:
    """``c' = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h' = sigmoid(o) tanh(c')``."""
    gates = _gates(_both(form, input, hx[0], w_ih, w_hh, b_ih, b_hh), 4)
    i, f, g, o = (
        form.settle(gate, name) for gate, name in zip(gates, ("gate_i", "gate_f", "gate_g", "gate_o"), strict=True)
    )
    cell = form.settle(
        pointwise(
            lambda c, a, b, d: sigmoid(b) * c + sigmoid(a) * sympy.tanh(d),
            form.factor(hx[1]),
            i,
            f,
            g,
        ),
        "cell",
    )
    return pointwise(lambda a, c: sigmoid(a) * sympy.tanh(c), o, cell), cell


@rule("gru_cell")
def gru_cell(
    form: Forming,
    input: Value,
    hx: Value,
    w_ih: Value,
    w_hh: Value,
    b_ih: Value | None = None,
    b_hh: Value | None = None,
) -> Value:
    """``h' = (1 - z) n + z h``, with ``n = tanh(x part + r (h part))``."""
    ours = _gates(linear(form, input, w_ih, b_ih), 3)
    theirs = _gates(linear(form, hx, w_hh, b_hh), 3)
    reset = form.settle(applied(form, sigmoid, plus(ours[0], theirs[0])), "reset")
    update = form.settle(applied(form, sigmoid, plus(ours[1], theirs[1])), "update")
    mixed = pointwise(lambda a, r, b: a + r * b, ours[2], reset, form.settle(theirs[2], "hidden"))
    new = form.settle(applied(form, sympy.tanh, mixed), "new")
    return pointwise(lambda z, n, h: (1 - z) * n + z * h, update, new, form.settle(hx))


@rule("rnn_tanh_cell")
def rnn_tanh_cell(
    form: Forming,
    input: Value,
    hx: Value,
    w_ih: Value,
    w_hh: Value,
    b_ih: Value | None = None,
    b_hh: Value | None = None,
) -> Value:
    """``h' = tanh(W x + U h + b)``."""
    return applied(form, sympy.tanh, _both(form, input, hx, w_ih, w_hh, b_ih, b_hh))


@rule("rnn_relu_cell")
def rnn_relu_cell(
    form: Forming,
    input: Value,
    hx: Value,
    w_ih: Value,
    w_hh: Value,
    b_ih: Value | None = None,
    b_hh: Value | None = None,
) -> Value:
    """``h' = relu(W x + U h + b)``."""
    return applied(form, relu, _both(form, input, hx, w_ih, w_hh, b_ih, b_hh))
