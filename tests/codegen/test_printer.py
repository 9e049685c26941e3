"""Printed PyTorch: expressions as text, and whole programs run and compared with the interpreter in both styles."""

import math

import numpy
import pytest
import sympy
import torch
import torch.nn.functional

from affine_divergence.runtime.rows import weighted_sum
from codegen.ir.interpret import interpret
from codegen.ir.program import Contract, Pointwise, Program, Value
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.layout import LayoutError
from codegen.printing.torch_lines import Style, TorchPrinter
from derive.algebra.index import Index, size_symbol
from derive.errors import UsageError

B, N, M = (size_symbol(n) for n in "Bnm")
s, i, j, k = Index("s", B), Index("i", M), Index("j", N), Index("k", N)
x, W, b, g, f = Value("x", (s, j)), Value("W", (i, j)), Value("b", (i,)), Value("g", (s, i)), Value("f", (s,))
y, z, c, v = Value("y", (s, i)), Value("z", (s, i)), Value("c", (s,)), Value("v", (j,))
kappa = sympy.Symbol("kappa", positive=True)
SIZES = {"B": 5, "n": 4, "m": 3}
WIDE = frozenset({"f"})


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (sympy.sqrt(kappa), "math.sqrt(kappa)"),
        (1 / sympy.sqrt(kappa - 1), "1 / math.sqrt(kappa - 1)"),
        (sympy.sqrt(kappa) / sympy.sqrt(f.entry + 1), "math.sqrt(kappa) / torch.sqrt(f + 1)"),
        (-(f.entry**2) * g.entry / kappa, "-f**2 * g / kappa"),
        (f.entry * (y.entry + b.entry), "f * (y + b)"),
        (g.entry / (kappa * f.entry), "g / (kappa * f)"),
        (g.entry - 3 * y.entry / 2, "g - 3 * y / 2"),
        (sympy.tanh(g.entry) * sympy.exp(-kappa), "math.exp(-kappa) * torch.tanh(g)"),
        (sympy.Max(g.entry, 0), "torch.clamp(g, min=0)"),
        (abs(g.entry), "torch.abs(g)"),
        (sympy.oo, "math.inf"),
        (x.entry / N, "x / x.shape[1]"),
        (2 ** (g.entry + 1), "2**(g + 1)"),
        (sympy.Rational(1, 3), "1 / 3"),
    ],
)
def test_expression(expression, text):
    printer = ExpressionPrinter(lambda e: str(e.base.label), {N: "x.shape[1]"})
    assert printer.text(expression) == text


def test_a_function_that_cannot_be_printed_is_named():
    with pytest.raises(UsageError, match="cannot print gamma"):
        ExpressionPrinter(str).text(sympy.gamma(g.entry))


def run(program, style, arrays):
    names = {"torch": torch, "weighted_sum": weighted_sum, "F": torch.nn.functional, "math": math, "kappa": 2.5}
    for value in program.inputs:
        tensor = torch.tensor(arrays[value.name])
        names[value.name] = tensor.unsqueeze(-1) if value.indices == (s,) else tensor
    for line in TorchPrinter(program, style).lines():
        exec(f"{line.target} = {line.text}", names)
    return [names[name] for name in program.outputs]


def agrees(program):
    rng = numpy.random.default_rng(5)
    lengths = {B: 5, N: 4, M: 3}
    arrays = {a.name: rng.normal(size=[lengths[n.size] for n in a.indices]) for a in program.inputs}
    expected = interpret(program, arrays, {"kappa": 2.5}, SIZES)
    for style in (Style(in_place=True, wide=WIDE), Style(own=program.inputs[0].name, wide=WIDE)):
        before = {name: array.copy() for name, array in arrays.items()}
        for result, name in zip(run(program, style, arrays), program.outputs, strict=True):
            target = program.values[name]
            shape = (5, 1) if target.indices == (s,) else expected[name].shape
            numpy.testing.assert_allclose(result.numpy(), expected[name].reshape(shape), rtol=1e-12)
        assert all((arrays[name] == before[name]).all() for name in arrays), "an input was written to"


def program(*instructions):
    used = {str(e.base.label) for step in instructions for e in step.reads}
    inputs = tuple(a for a in (x, W, b, g, f, v) if a.name in used)
    return Program("p", inputs, (kappa,), instructions, (instructions[-1].target.name,))


PRODUCT = Contract(y, (x.entry, W.entry), (j,))
CONTRACTIONS = [
    PRODUCT,
    Contract(y, (W.entry, x.entry), (j,)),
    Contract(Value("t", (i, s)), (x.entry, W.entry), (j,)),
    Contract(Value("t", (s, j)), (g.entry, W.entry), (i,)),
    Contract(Value("t", (i, j)), (g.entry, x.entry), (s,)),
    Contract(Value("t", (j, i)), (g.entry, x.entry), (s,)),
    Contract(c, (g.entry, b.entry), (i,)),
    Contract(c, (x.entry, x.entry), (j,)),
    Contract(c, (x.entry, (x.entry + 0)), (j,)),
    Contract(Value("t", (j,)), (x.entry, x.entry), (s,)),
    Contract(Value("t", (i,)), (f.entry, g.entry), (s,)),
    Contract(Value("t", (i,)), (v.entry, W.entry), (j,)),
    Contract(Value("t", (j,)), (b.entry, W.entry), (i,)),
    Contract(Value("t", (i,)), (g.entry,), (s,)),
    Contract(c, (g.entry,), (i,)),
    Contract(y, (f.entry, x.entry, W.entry), (j,)),
    Contract(y, (x.entry, W.entry, v.entry), (j,)),
    Contract(Value("t", (i, j)), (f.entry, g.entry, x.entry), (s,)),
    Contract(Value("t", (s, i)), (f.entry, b.entry), ()),
]


@pytest.mark.parametrize("contract", CONTRACTIONS)
def test_contraction(contract):
    agrees(program(contract))


@pytest.mark.parametrize(
    "expression",
    [
        f.entry * (y.entry + b.entry),
        f.entry * y.entry + b.entry,
        f.entry * y.entry - kappa * g.entry,
        g.entry - f.entry * y.entry,
        y.entry / f.entry + f.entry * b.entry,
        -y.entry,
        y.entry + g.entry * f.entry - b.entry,
        sympy.tanh(y.entry + b.entry),
        y.entry**2 * f.entry,
        y.entry * sympy.tanh(y.entry),
        b.entry * f.entry + g.entry / y.entry,
    ],
)
def test_pointwise_after_a_product(expression):
    agrees(program(PRODUCT, Pointwise(z, expression)))


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (sympy.sqrt(kappa) / sympy.sqrt(c.entry + 1), ".add_(1).rsqrt_().mul_(math.sqrt(kappa))"),
        (sympy.sqrt(c.entry) - f.entry, ".sqrt_().sub_(f)"),
        (f.entry * (f.entry * f.entry + c.entry) / kappa, ".add_(f**2).mul_(f / kappa)"),
    ],
)
def test_a_number_a_row_is_computed_in_its_own_column(expression, text):
    whole = program(Contract(c, (x.entry, x.entry), (j,)), Pointwise(Value("last", (s,)), expression))
    agrees(whole)
    assert TorchPrinter(whole, Style(in_place=True, wide=WIDE)).lines()[-1].text.endswith(text)


def test_the_buffer_that_takes_the_fewest_calls_is_overwritten():
    other = Contract(Value("a", (s,)), (g.entry, g.entry), (i,))
    total = f.entry * other.target.entry + c.entry
    whole = program(other, Contract(c, (x.entry, x.entry), (j,)), Pointwise(Value("last", (s,)), total))
    agrees(whole)
    assert TorchPrinter(whole, Style(in_place=True, wide=WIDE)).lines()[-1].text.endswith(".addcmul_(a, f)")


def test_a_buffer_that_is_read_later_is_not_overwritten():
    first = Pointwise(z, f.entry * y.entry)
    agrees(program(PRODUCT, first, Pointwise(Value("last", (s, i)), y.entry + z.entry)))


def test_the_bias_is_added_by_the_product_itself():
    lines = TorchPrinter(program(PRODUCT, Pointwise(z, f.entry * (y.entry + b.entry))), Style(in_place=True)).lines()
    assert [line.text for line in lines] == ["F.linear(x, W, b).mul_(f)"]


def test_equations_stand_on_the_lines_that_implement_them():
    (line,) = TorchPrinter(program(Contract(y, (x.entry, W.entry), (j,), "mine/forward")), Style()).lines()
    assert line.printed() == ["y = F.linear(x, W)  # mine/forward"]
    assert line.printed(width=20) == ["# mine/forward", "y = F.linear(x, W)"]


def test_what_is_no_matrix_is_refused():
    deep = Value("deep", (s, i, j))
    with pytest.raises(LayoutError, match="'deep' has 3 axes"):
        TorchPrinter(Program("p", (deep,), (), (), ("deep",)), Style())
