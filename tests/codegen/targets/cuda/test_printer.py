"""Scalars as C++: the text, and its compiled value compared with SymPy's."""

import random
import subprocess

import pytest
import sympy
from sympy import (
    Eq,
    Integer,
    Max,
    Min,
    Mod,
    Piecewise,
    Rational,
    ceiling,
    cos,
    exp,
    floor,
    log,
    oo,
    pi,
    sin,
    sqrt,
    tanh,
)

from codegen.ir.program import Value, name_of
from codegen.printing.c_names import check_distinct, identifier
from codegen.printing.c_scalars import ScalarPrinter
from derive.algebra.index import Index, size_symbol
from derive.errors import UsageError
from tests.codegen.targets.cuda.host import needs_compiler

n, m = size_symbol("n"), size_symbol("m")
s, j = Index("s", size_symbol("B")), Index("j", n)
q, peak, c, f = (Value(name, (s,)).entry for name in ("q", "peak", "c", "f"))
x, u = (Value(name, (s, j)).entry for name in ("x", "u"))
kappa = sympy.Symbol("kappa", positive=True)
PRINTER = ScalarPrinter(name_of, {n: "n", m: "m"})

TEXTS = [
    (sqrt(kappa) / (peak * sqrt(q + peak**-2)), "sqrt(kappa) / (peak * sqrt(q + Wide(1) / (peak * peak)))"),
    (sqrt(kappa - 1) / q, "sqrt(kappa - 1) / q"),
    (f * x - c * u, "f * x - c * u"),
    (-c * u, "-c * u"),
    (-(c**2) / kappa, "-(c * c) / kappa"),
    (x / peak, "x / peak"),
    (1 / x, "Wide(1) / x"),
    (Rational(1, 3), "Wide(1) / 3"),
    (Rational(-2, 3) * x, "-2 * x / 3"),
    (3 / (2 * x), "Wide(3) / (2 * x)"),
    (n / 2 + x, "x + Wide(n) / 2"),
    (x / n, "x / Wide(n)"),
    (floor(n / 2) * x, "Wide((n / 2)) * x"),
    (ceiling(n / 3) + x, "Wide(((2 + n) / 3)) + x"),
    (Mod(n, 4) * x, "Wide((n % 4)) * x"),
    (q ** Rational(3, 2), "q * sqrt(q)"),
    (q ** Rational(1, 3), "pow(q, Wide(1) / 3)"),
    (q**7, "pow(q, Wide(7))"),
    (2**q, "pow(Wide(2), q)"),
    (pi * x, "Wide(3.141592653589793) * x"),
    (sqrt(3) * x / 2, "Wide(1.7320508075688772) * x / 2"),
    (sin(tanh(q)) / q, "sin(tanh(q)) / q"),
    (Max(x, 0), "fmax(Wide(0), x)"),
    (Min(x, u, 1), "fmin(fmin(Wide(1), u), x)"),
    (abs(x), "fabs(x)"),
    (sympy.sign(x), "sign(x)"),
    (oo, "infinity()"),
    (Piecewise((oo, Eq(q, 0)), (q, True)), "q == 0 ? infinity() : q"),
    (Piecewise((x, sympy.Lt(q, 1)), (0, True)), "q < 1 ? x : 0"),
    (sympy.Heaviside(x - 1), "heaviside(x - 1)"),
    (Integer(10) ** 12, "Wide(1000000000000.0)"),
    (sympy.Float("0.1"), "Wide(0.1)"),
]


@pytest.mark.parametrize(("expression", "text"), TEXTS, ids=[t for _, t in TEXTS])
def test_text(expression, text):
    assert PRINTER.text(expression) == text


def test_counting_stays_among_whole_numbers():
    """SymPy's own C printer divides lengths as floats; ours divides integers."""
    assert "1.0/2.0" in sympy.ccode(floor(n / 2))
    assert PRINTER.text(floor(n / 2) * x) == "Wide((n / 2)) * x"


VALUES = {"kappa": 2.5, "q": 0.3, "peak": 1.7, "c": -0.8, "f": 0.45, "x": -1.25, "u": 0.7, "n": 7, "m": 5}
PRELUDE = """
#include <math.h>
#include <stdio.h>
typedef {wide} Wide;
static Wide infinity() {{ return INFINITY; }}
static Wide sign(Wide v) {{ return Wide((v > 0) - (v < 0)); }}
static Wide heaviside(Wide v) {{ return (sign(v) + 1) / 2; }}
int main() {{
    const long long n = 7, m = 5;
    const Wide kappa = Wide(2.5), q = Wide(0.3), peak = Wide(1.7), c = Wide(-0.8);
    const Wide f = Wide(0.45), x = Wide(-1.25), u = Wide(0.7);
    (void)n, (void)m, (void)kappa, (void)q, (void)peak, (void)c, (void)f, (void)x, (void)u;
"""


def compiled_values(expressions, folder, wide="double"):
    """Print, compile and run: return one value per expression; sizeof checks that every text is of the wide type."""
    lines = []
    for e in expressions:
        text = PRINTER.text(e)
        same = "" if e.is_Integer else f'static_assert(sizeof({text}) == sizeof(Wide), "not wide");'
        lines.append(f'    {{ {same} printf("%.17g\\n", double({text})); }}')
    program = PRELUDE.format(wide=wide) + "\n".join(lines) + "\n    return 0;\n}\n"
    (folder / "values.cpp").write_text(program)
    command = ["g++", "-std=c++17", "-Wall", "-Werror", "-Wno-unused-function", "values.cpp", "-o", "values"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + program
    out = subprocess.run([folder / "values"], capture_output=True, text=True, check=True).stdout
    return [float(line) for line in out.split()]


def exact(expression):
    entries = {e: sympy.Float(VALUES[name_of(e)], 30) for e in expression.atoms(sympy.Indexed)}
    settings = {kappa: sympy.Float(VALUES["kappa"], 30), n: VALUES["n"], m: VALUES["m"]}
    return float(expression.xreplace(entries).xreplace(settings).doit().evalf(25))


@needs_compiler
@pytest.mark.parametrize(("wide", "tolerance"), [("double", 1e-14), ("float", 1e-6)])
def test_value(tmp_path, wide, tolerance):
    expressions = [e for e, _ in TEXTS if e != oo]
    found = compiled_values(expressions, tmp_path, wide)
    for expression, value in zip(expressions, found, strict=True):
        assert value == pytest.approx(exact(expression), rel=tolerance), expression


LEAVES = [q, peak, f, kappa, n, Integer(2), Rational(2, 3), pi]
GROWN = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b,
    lambda a, b: a**2 + 1 / b,
    lambda a, b: sqrt(a**2 + 1) / b**3,
    lambda a, b: (a**2 + 2) ** Rational(-3, 2) * b,
    lambda a, b: sin(a) * tanh(b),
    lambda a, b: exp(-(a**2)) - cos(b),
    lambda a, b: log(a**2 + 1) + b,
    lambda a, b: Max(a, b) * Min(a, 1),
]


def grown(random, depth):
    if depth == 0:
        return random.choice(LEAVES)
    return random.choice(GROWN)(grown(random, depth - 1), grown(random, random.randrange(depth)))


@needs_compiler
def test_random_expressions(tmp_path):
    generator = random.Random(4)
    expressions = [grown(generator, generator.randrange(1, 4)) for _ in range(250)]
    kept = [e for e in expressions if not e.has(sympy.zoo, sympy.nan) and 1e-9 < abs(exact(e)) < 1e9]
    assert len(kept) > 200
    for expression, value in zip(kept, compiled_values(kept, tmp_path), strict=True):
        assert value == pytest.approx(exact(expression), rel=1e-9), expression


def test_what_cannot_be_printed_is_named():
    with pytest.raises(UsageError, match="cannot print gamma"):
        PRINTER.text(sympy.gamma(x))
    with pytest.raises(UsageError, match="cannot print the number I"):
        PRINTER.text(sympy.I * x)
    with pytest.raises(UsageError, match="compare two scalars"):
        PRINTER.text(Piecewise((x, sympy.And(x > 0, u > 0)), (u, True)))
    with pytest.raises(UsageError, match="cannot print the integer"):
        PRINTER.text(floor((n - m) / 2) * x)


def test_names_that_cpp_has_taken_get_an_underscore():
    assert [identifier(name) for name in ("x", "float", "row", "sin")] == ["x", "float_", "row_", "sin_"]
    with pytest.raises(UsageError, match="two of its tensors or sizes would both be called 'x_data'"):
        check_distinct("k", ["x_data", "x", "x_data"])
