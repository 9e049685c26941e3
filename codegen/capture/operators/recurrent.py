"""Recurrent networks: cells (one step, a block for each gate), and cells unrolled over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import sympy
from sympy import Expr

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.pointwise import applied
from codegen.capture.operators.products import linear, plus
from codegen.capture.operators.table import rule
from codegen.capture.values import Value, concatenated, pointwise, selected, sliced, with_axis
from derive.algebra.named import relu, sigmoid

Step = Callable[[Forming, Value, list[Value], Any], Iterable[Value]]


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


_LONGEST = 8


def _unrolled(form: Forming, self: Value, states: Any, params: Any, settings: Any, step: Step) -> tuple[Value, ...]:
    """Return the outputs at every time and the last states, by unrolling ``step``."""
    has_biases, layers, dropout, train, bidirectional, batch_first = settings
    if bidirectional or (train and dropout != 0):
        raise refuse("a recurrent network is bidirectional, or has dropout", "use one direction and dropout 0")
    time = 1 if batch_first else 0
    count = self.shape[time]
    if not count.is_Integer or count > _LONGEST:
        raise refuse(
            f"a recurrence runs over {count} times", f"give an example with at most {_LONGEST}, batch_first=True"
        )
    places, width = [selected(self, time, sympy.Integer(t)) for t in range(int(count))], 4 if has_biases else 2
    last: list[list[Value]] = []
    for layer in range(int(layers)):
        own = [selected(state, 0, sympy.Integer(layer)) for state in states]
        given = params[width * layer : width * (layer + 1)]
        for t, place in enumerate(places):
            own = list(step(form, place, own, given))
            own = [form.settle(state, f"state_{t}") for state in own]
            places[t] = own[0]
        last.append(own)
    whole = concatenated([with_axis(place, time) for place in places], time)
    return (whole, *(concatenated([with_axis(own[k], 0) for own in last], 0) for k in range(len(states))))


@rule("lstm")
def lstm(
    form: Forming,
    input: Value,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: Expr,
    dropout: Expr,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Value, ...]:
    """The LSTM cell unrolled over time, at most 8 times."""
    settings = (has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return _unrolled(form, input, hx, params, settings, lambda f, x, own, p: lstm_cell(f, x, own, *p))


def _over_time(name: str, cell: Callable[..., Value], what: str) -> None:
    """Register the rule of a network that unrolls a cell with one state over time."""

    def network(
        form: Forming,
        input: Value,
        hx: Value,
        params: Any,
        has_biases: bool,
        num_layers: Expr,
        dropout: Expr,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Value, ...]:
        """Unroll the cell."""
        settings = (has_biases, num_layers, dropout, train, bidirectional, batch_first)
        return _unrolled(form, input, (hx,), params, settings, lambda f, x, own, p: (cell(f, x, own[0], *p),))

    network.__doc__ = f"{what} unrolled over time, at most {_LONGEST} times."
    rule(name)(network)


_over_time("gru", gru_cell, "The GRU cell")
_over_time("rnn_tanh", rnn_tanh_cell, "The cell with tanh")
_over_time("rnn_relu", rnn_relu_cell, "The cell with relu")
