"""The reference interpreter against handwritten NumPy."""

import numpy
import pytest
import sympy

from codegen.ir.interpret import interpret
from codegen.ir.program import Contract, Magnitude, Pointwise, Program, ProgramError, Value
from derive.algebra.index import Index, size_symbol

B, N = size_symbol("B"), size_symbol("n")
s, j = Index("s", B), Index("j", N)
x, v, f, t = Value("x", (s, j)), Value("v", (j,)), Value("f", (s,)), Value("t", (s, j))
SIZES = {"B": 3, "n": 4}
rng = numpy.random.default_rng(0)
X, V = rng.normal(size=(3, 4)), rng.normal(size=4)
kappa = sympy.Symbol("kappa", positive=True)


def run(instruction, **more):
    program = Program("p", (x, v), (kappa,), (instruction,), (instruction.target.name,))
    (result,) = interpret(program, {"x": X, "v": V, **more}, {"kappa": 2.0}, SIZES).values()
    return result


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (Contract(f, (x.entry, v.entry), (j,)), X @ V),
        (Contract(f, (x.entry, x.entry), (j,)), (X * X).sum(1)),
        (Contract(Value("c", (j,)), (x.entry,), (s,)), X.sum(0)),
        (Contract(Value("o", (j, s)), (x.entry,), ()), X.T),
        (Pointwise(t, kappa * x.entry / v.entry), 2 * X / V),
        (Pointwise(t, sympy.tanh(x.entry) + N), numpy.tanh(X) + 4),
        (Pointwise(t, sympy.Max(x.entry, 0) + abs(v.entry)), numpy.maximum(X, 0) + abs(V)),
        (Pointwise(Value("e", (s, j)), v.entry), numpy.broadcast_to(V, (3, 4))),
        (Pointwise(t, sympy.Piecewise((sympy.oo, sympy.Eq(x.entry, 0)), (x.entry, True))), X),
    ],
)
def test_instruction(instruction, expected):
    numpy.testing.assert_allclose(run(instruction), expected, rtol=1e-14)


def test_a_magnitude_is_positive_even_for_zeros():
    assert (run(Magnitude(f, x.entry, (j,)), x=numpy.zeros((3, 4))) > 0).all()


def test_a_wrong_shape_and_a_missing_input_are_named():
    with pytest.raises(ProgramError, match=r"'v' has shape \(5,\), expected \(4,\)"):
        run(Contract(f, (x.entry, v.entry), (j,)), v=numpy.ones(5))
    program = Program("p", (x,), (), (), ("x",))
    with pytest.raises(ProgramError, match="'x' is missing"):
        interpret(program, {}, {}, SIZES)
