"""The rules of the representation: each broken rule is named."""

import pytest
import sympy

from codegen.ir.program import Contract, Magnitude, Pointwise, Program, ProgramError, Value
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum

B, N, M = (size_symbol(n) for n in "Bnm")
s, j, i = Index("s", B), Index("j", N), Index("i", M)
kappa = sympy.Symbol("kappa", positive=True)
x, W = Value("x", (s, j)), Value("W", (i, j))
y, f = Value("y", (s, i)), Value("f", (s,))
PRODUCT = Contract(y, (x.entry, W.entry), (j,))


def program(*instructions, outputs=("y",), inputs=(x, W)):
    return Program("p", inputs, (kappa,), instructions, outputs)


def test_a_program_knows_its_values_and_what_a_result_needs():
    square = Contract(f, (x.entry, x.entry), (j,))
    whole = program(PRODUCT, square)
    assert list(whole.values) == ["x", "W", "y", "f"]
    assert whole.needed_for(["f"]) == (square,)
    cut = whole.restricted("q", ("f",))
    assert [v.name for v in cut.inputs] == ["x"] and cut.scalars == ()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda: program(), "never assigned"),
        (lambda: program(PRODUCT, PRODUCT), "assigned twice"),
        (lambda: program(Contract(y, (x.entry, Value("V", (i, j)).entry), (j,))), "before it is assigned"),
        (lambda: program(Contract(y, (x.entry, W.entry), ())), "do not match"),
        (lambda: program(Contract(y, (x.entry, W.at((j, j))), (j,))), "distinct plain indices"),
        (lambda: program(Contract(y, (x.entry, W.at((i, Index("j", M)))), (Index("j", M),))), "does not fit the axes"),
        (lambda: program(Contract(y, (x.at((s, j + 1)), W.entry), (j,))), "distinct plain indices"),
        (lambda: program(Pointwise(f, x.entry), outputs=("f",)), "which it lacks"),
        (lambda: program(Pointwise(f, IndexedSum(x.entry, j)), outputs=("f",)), "contains a sum"),
        (lambda: program(Pointwise(x, x.entry)), "assigned twice"),
        (lambda: program(Pointwise(Value("v", (s, j)), x.entry * sympy.Symbol("eta"))), "not declared"),
        (lambda: program(Pointwise(Value("class", (s, j)), x.entry)), "not a name"),
        (lambda: program(Pointwise(Value("v", ()), sympy.Integer(1))), "at least one axis"),
        (lambda: program(Magnitude(f, x.entry, ()), outputs=("f",)), "do not match"),
    ],
)
def test_every_broken_rule_is_named(broken, words):
    with pytest.raises(ProgramError, match=words):
        broken()


def test_broadcasting_follows_from_the_indices():
    scaled = Pointwise(Value("v", (s, j)), kappa * f.entry * x.entry)
    assert program(scaled, inputs=(x, f), outputs=("v",)).values["v"].indices == (s, j)
