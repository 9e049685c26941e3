"""The scale at any magnitude of the input, in float64 by the interpreter."""

import numpy
import pytest
import sympy

from codegen.ir.interpret import interpret
from codegen.ir.program import Magnitude, Pointwise
from codegen.lower.gathering import lower
from codegen.passes.ranges import range_safe
from derive.declare import forward as declare
from derive.errors import UsageError

SIZES = {"B": 3, "n": 4, "m": 2}
EXPECTED = {
    "affine-like": lambda r: 2.5**0.5 / numpy.hypot(r, 1),
    "norm-like": lambda r: 1.5**0.5 / r,
    "linear/norm-like": lambda r: 2.5**0.5 / r,
}


@pytest.mark.parametrize("size", [1e-160, 1e-30, 1.0, 1e30, 1e160, 1e300])
def test_scale_at_every_magnitude(solution, forward, size):
    x = numpy.random.default_rng(4).normal(size=(3, 4)) * size
    (f,) = interpret(range_safe(forward, "f"), {"x": x}, {"kappa": 2.5}, SIZES).values()
    length = size * numpy.linalg.norm(x / size, axis=1)
    numpy.testing.assert_allclose(f, EXPECTED[solution.mapped.name](length), rtol=1e-13)


def test_scale_of_a_row_of_zeros(solution, forward):
    (f,) = interpret(range_safe(forward, "f"), {"x": numpy.zeros((3, 4))}, {"kappa": 2.5}, SIZES).values()
    expected = 2.5**0.5 if solution.mapped.name == "affine-like" else 0.0
    numpy.testing.assert_allclose(f, expected)


def test_nothing_is_squared_before_it_is_divided(forward):
    safe = range_safe(forward, "f")
    assert isinstance(safe.instructions[0], Magnitude)
    last = safe.instructions[-1]
    assert isinstance(last, Pointwise) and not any(p.exp == 2 for p in last.expression.atoms(sympy.Pow))


def test_a_scale_without_a_rule_is_refused():
    formulas = ["E = sum[j](x[j]**2)", "f = 1/E + 1", "z[i] = f*sum[j](W[i, j]*x[j])"]
    layer = declare("odd", sizes="n m", inputs={"x": "n"}, parameters={"W": "m n"}, formulas=formulas)
    with pytest.raises(UsageError, match="singular at zero"):
        range_safe(lower(layer), "f")
    with pytest.raises(UsageError, match="not a function of one sum of squares"):
        range_safe(lower(layer), "E")
