"""The output of rows near the end of the range: each long row is computed in a unit of its own, a power of two.

    x_u = unit*x,  f_u = f/unit,  xW = (sum of W*x_u)/unit        equal for every unit
    z = f*(xW + b) = f_u*(xW_u + unit*b)

For an entry of 1e38, products overflow float32 and the scale underflows; ``x_u``, ``f_u`` and ``xW_u`` stay in range. A
unit of one changes no bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Mul, Pow

from codegen.ir.program import Contract, Magnitude, Pointwise, Program, Value, name_of


@dataclass(frozen=True)
class RowUnits:
    """How the output is computed in a row's unit.

    ``peak`` is the magnitude that decides which rows are long; ``steps`` compute ``scaled``, which is ``f_u``, from
    ``unit`` and the operands of ``f``; ``output`` computes the output from the row's product in this unit.
    """

    peak: Value
    unit: Value
    scaled: Value
    steps: tuple[Pointwise, ...]
    output: Pointwise


def row_units(scale: Program, forward: Program) -> RowUnits | None:
    """Return how the output is computed in each row's unit; None for a map not of the form in the module docstring."""
    (output,), (name, *more) = forward.outputs, scale.outputs
    peaks = [i for i in scale.instructions if isinstance(i, Magnitude)]
    producer, last = scale.producers[name], forward.producers[output]
    products = [i for i in forward.instructions if isinstance(i, Contract)]
    if more or len(peaks) != 1 or len(products) != 1 or len(forward.instructions) != 2:
        return None
    assert isinstance(producer, Pointwise)
    if not isinstance(last, Pointwise) or name in map(name_of, products[0].reads):
        return None
    (peak,) = peaks
    factors = Mul.make_args(producer.expression)
    inverse = Pow(peak.target.entry, -1)
    if inverse not in factors:
        return None
    unit, own = Value("unit", peak.target.indices), Value(f"{name}_u", peak.target.indices)
    near = Value("peak_u", peak.target.indices)
    scaled = Mul(*(1 / near.entry if f == inverse else f for f in factors))
    entry, product = forward.values[name].entry, products[0].target.entry
    written = last.expression.xreplace({entry: own.entry * unit.entry, product: product / unit.entry})
    expression = sympy.factor(sympy.expand(written))
    if sympy.denom(sympy.together(expression)).has(unit.entry):
        return None
    return RowUnits(
        peak=peak.target,
        unit=unit,
        scaled=own,
        steps=(Pointwise(near, peak.target.entry * unit.entry), Pointwise(own, scaled)),
        output=Pointwise(last.target, expression, last.equation),
    )
