"""Formulas and angle functions: the meaning of valid text, and the errors of invalid text."""

from __future__ import annotations

import re

import pytest
import sympy
from sympy import Expr, Rational, Symbol

from derive.algebra.equality import equal
from derive.algebra.index import Index, Quotient, Remainder, size_symbol
from derive.algebra.nodes import IndexedSum, tensor
from derive.excerpt import Excerpt, SpecError
from derive.formula import parse_angle, parse_definition
from derive.forward_map import BATCH
from derive.names import Named, Namespace
from derive.nearest import NEAREST_FUNCTIONS, NEAREST_REDUCTIONS
from tests.derive.pace import within

m, n, v, stride = (size_symbol(name) for name in ("m", "n", "v", "stride"))
pad = Symbol("pad", integer=True, nonnegative=True)
i, j, k = Index("i", m), Index("j", n), Index("k", n)
x, q, W, b, t, u = tensor("x"), tensor("q"), tensor("W"), tensor("b"), tensor("t", values=v), tensor("u", values=m)
E = tensor("E")
s = BATCH

NAMES = Namespace(
    sizes={"m": m, "n": n, "v": v, "stride": stride},
    tensors={
        "x": Named(x, (n,), (s,)),
        "q": Named(q, (), (s,)),
        "t": Named(t, (), (s,)),
        "u": Named(u, (n,), (s,)),
        "W": Named(W, (m, n)),
        "b": Named(b, (m,)),
        "E": Named(E, (v, m)),
    },
    offsets={"pad": pad},
)
Wx = IndexedSum(W[i, j] * x[s, j], j)

GOOD: dict[str, Expr] = {
    "z[i] = sum[j](W[i, j]*x[j]) + b[i]": Wx + b[i],
    "  z[i]\n =\tsum[j](W[i, j]\n*x[j]) + b[i] ": Wx + b[i],
    "z[i] = sum[j](W[i, j]*x[j])/sqrt(sum[j](x[j]**2) + 1)": Wx / sympy.sqrt(IndexedSum(x[s, j] ** 2, j) + 1),
    "z[i] = sum[j, k](W[i, j]*W[i, k]*x[j]*x[k])": IndexedSum(W[i, j] * W[i, k] * x[s, j] * x[s, k], j, k),
    "z[i] = sum[j](sum[k](W[i, j]*x[k]))": IndexedSum(IndexedSum(W[i, j] * x[s, k], k), j),
    "z[i] = b[i]*q": b[i] * q[s],
    "z[i] = -b[i]**2 + 2**-1*b[i] - +b[i]": -(b[i] ** 2) + b[i] / 2 - b[i],
    "z[i] = 0.1*b[i] + 1e-3 + .5 + 2.": b[i] / 10 + Rational(1, 1000) + Rational(5, 2),
    "z[i] = b[i]/sqrt(n)": b[i] / sympy.sqrt(n),
    "z[i] = b[i]**(1/2) + b[i]**0.25 + b[i]**(-3/2)": (
        b[i] ** Rational(1, 2) + b[i] ** Rational(1, 4) + b[i] ** Rational(-3, 2)
    ),
    "z[i] = exp(b[i]) + log(b[i]) + tanh(b[i])": sympy.exp(b[i]) + sympy.log(b[i]) + sympy.tanh(b[i]),
    "z[i] = sin(b[i]) + cos(b[i]) + abs(b[i])": sympy.sin(b[i]) + sympy.cos(b[i]) + sympy.Abs(b[i]),
    "z[i] = max(b[i], 0)*max(b[i], q, 1)": sympy.Max(b[i], 0) * sympy.Max(b[i], q[s], 1),
    "z[i] = E[t, i]": E[t[s], i],
    "z[i] = sum[j](E[t, u[j]]*W[i, j])": IndexedSum(E[t[s], u[s, j]] * W[i, j], j),
    "z[i] = b[i]*x[n - 1] + x[0]": b[i] * x[s, n - 1] + x[s, 0],
    "z[i] = sum[j](x[2*j + stride*i - pad]*W[i, j])": IndexedSum(x[s, 2 * j + stride * i - pad] * W[i, j], j),
    "z[i] = b[i]*sum[j:n](x[2*j])": b[i] * IndexedSum(x[s, 2 * j], j),
    "z[i] = b[i]**(i + 1)": sympy.exp((i + 1) * sympy.log(b[i])),
    "z[i] = b[i]**n": b[i] ** n,
    "z[i] = b[i]*(i // 2)/(3 + i % 2)": b[i] * Quotient(i, 2) / (3 + Remainder(i, 2)),
    "z[i] = where(b[i] > q, b[i], 2)": (sympy.Heaviside(b[i] - q[s]) * b[i] + 2 * (1 - sympy.Heaviside(b[i] - q[s]))),
    "z[i:m] = sum[j](x[j]*delta(2*j, i + 1))": IndexedSum(x[s, j] * sympy.KroneckerDelta(2 * j, i + 1), j),
}


@pytest.mark.parametrize("text", GOOD)
def test_a_formula_means_what_it_says(text: str) -> None:
    definition = parse_definition(text, NAMES)
    assert (definition.name, definition.indices) == ("z", (s, i))
    assert equal(definition.expression, GOOD[text])


def test_an_index_takes_the_size_of_the_axis_that_it_indexes() -> None:
    definition = parse_definition("z[a] = sum[p, l](E[p, l]*b[l])*b[a]", NAMES)
    (total,) = definition.expression.atoms(IndexedSum)
    assert definition.indices == (s, Index("a", m))
    assert set(total.bound) == {Index("p", v), Index("l", m)}


def test_the_same_letter_may_run_over_different_axes_in_different_sums() -> None:
    definition = parse_definition("z[i] = b[i]*sum[j](x[j])*sum[j](b[j])", NAMES)
    ranges = {total.bound[0].size for total in definition.expression.atoms(IndexedSum)}
    assert ranges == {n, m}


def test_a_declared_output_axis_gives_its_index_a_size() -> None:
    definition = parse_definition("z[p] = sum[j](x[p + j]*W[0, j])", NAMES, target="z", axes=(v,))
    assert definition.indices == (s, Index("p", v))


def test_a_scalar_of_each_sample_has_the_batch_index_alone() -> None:
    definition = parse_definition("r = sum[j](x[j]**2)", NAMES)
    assert definition.indices == (s,)


def test_a_batched_formula_names_the_batch_itself() -> None:
    size = s.size
    names = Namespace({"B": size, "n": n}, {"x": Named(x, (size, n))}, batched=True)
    mean = parse_definition("mean_[j] = sum[s](x[s, j])/B", names)
    assert mean.indices == (j,)
    assert equal(mean.expression, IndexedSum(x[s, j], s) / size)


BAD: dict[str, tuple[int, str, str]] = {  # text: column, cause, fix
    # code, not a formula
    "z[i] = __import__('os')": (19, 'character "\'"', "ASCII letters"),
    "z[i] = __import__(b[i])": (8, "'__import__' is not a function", "a formula may hold"),
    "z[i] = b.__class__": (8, "an attribute", "a formula may hold"),
    "z[i] = b[i].real": (8, "an attribute", "a formula may hold"),
    "z[i] = (lambda y: y)(b[i])": (9, "a lambda", "a formula may hold"),
    "z[i] = sum(b[i] for i in b)": (11, "a comprehension", "a formula may hold"),
    "z[i] = [b[i] for i in b][0]": (8, "a comprehension", "a formula may hold"),
    "z[i] = (y := b[i])": (9, "an assignment inside", "a formula may hold"),
    "z[i] = b[i] if b[i] else 0": (8, "a condition", "where(condition, a, b)"),
    "z[i] = b[i] and 1": (8, "'b[i]' is not a condition", "compare two index expressions"),
    "z[i] = not b[i]": (12, "'b[i]' is not a condition", "compare two index expressions"),
    "z[i] = 'b'": (8, "character", "ASCII letters"),
    'z[i] = f"{b}"': (9, "character", "ASCII letters"),
    "z[i] = b[i] # b": (13, "character '#'", "ASCII letters"),
    "z[i] = b[i]; y = 1": (12, "character ';'", "ASCII letters"),
    "z[i] = b[i] @ b[i]": (13, "character '@'", "sum[j](W[i, j]*x[j])"),
    "z[i] = b[i]^2": (12, "character '^'", "a power with **"),
    "z[i] = where(b[i] > 0 ? 1 : 0)": (23, "character '?'", "where(j <= i, a, b)"),
    "z[i] = sum_j(W[i, j]*x[j])": (8, "'sum_j' is not a function", "sum[j](...)"),
    "z[i] = b[i]*exp": (13, "'exp' has no argument", "exp(u[i])"),
    "z[i] = b[i]*e**b[i]": (13, "unknown name 'e'", "exp(v)"),
    "z[i] = b[i] % 2": (8, "this operator", "such as i // 2"),
    "z[i] = b[i] // 2": (8, "this operator", "such as i // 2"),
    "z[i] = β[i]": (8, "character '\\u03b2'", "ASCII letters"),
    "z[i] = b[i]\0": (12, "character '\\x00'", "ASCII letters"),
    "z[i] = eval(b[i])": (8, "'eval' is not a function", "a formula may hold"),
    "z[i] = b[i](b[i])": (8, "'b[i]' cannot be called", "a product"),
    "z[i] = W[i](b[i])": (8, "'W' has 2 axes (m, n) but 1 index is given", "one index per axis"),
    "z[i] = sqrt(x=b[i])": (13, "an argument with a name", "by position"),
    "z[i] = sqrt(*b)": (13, "a starred argument", "a formula may hold"),
    "z[i] = True*b[i]": (8, "'True' is not a plain number", "an integer or a decimal"),
    "z[i] = 1j*b[i]": (8, "'1j' is not a plain number", "an integer or a decimal"),
    "z[i] = 0x10*b[i]": (8, "'0x10' is not a plain number", "an integer or a decimal"),
    "z[i] = (b[i], b[i])": (8, "a tuple has no meaning", "a formula may hold"),
    "z[i] = ...": (8, "'...' is not a plain number", "an integer or a decimal"),
    "import os": (1, "not one equation", "write one equation"),
    "z[i] + b[i]": (1, "not one equation", "write one equation"),
    "z[i] = y = b[i]": (1, "not one equation", "write one equation"),
    "z[i] += b[i]": (1, "not one equation", "write one equation"),
    "z[i]: b = b[i]": (1, "not one equation", "write one equation"),
    "z[i] == b[i]": (1, "not one equation", "write one equation"),
    "": (1, "empty", "write one such as"),
    " \n ": (1, "empty", "write one such as"),
    "z[i] = b[i": (9, "'[' was never closed", "fix the brackets"),
    "z[i] = b[i]]": (12, "unmatched ']'", "fix the brackets"),
    "z[i] = b[i] b[i]": (13, "cannot read this", "fix the brackets"),
    # too large
    "z[i] = " + "(" * 100_000: (1, "more than 4000", "intermediate definitions"),
    "z[i] = " + "(" * 1000 + "b[i]" + ")" * 1000: (32, "nested deeper than 24", "intermediate definitions"),
    "z[i] = " + "[" * 1000: (32, "nested deeper than 24", "intermediate definitions"),
    "z[i] = " + "-" * 3000 + "1": (1, "nested too deeply", "intermediate definitions"),
    "z[i] = b[i]" + "+1" * 1500: (1, "deeper than 100", "intermediate definitions"),
    "z[i] = " + "*".join(["(0" + "+b[i]" * 30 + ")"] * 20): (1, "more than 2000 parts", "intermediate definitions"),
    "z[i] = b[i]*9**9**9": (16, "exponent '9**9' is too large", "at most 16"),
    "z[i] = b[i]**999999999": (14, "exponent '999999999' is too large", "at most 16"),
    "z[i] = b[i]**(1/99)": (15, "exponent '1/99' is too large", "at most 16"),
    "z[i] = b[i]**(1/0)": (15, "not a real number", "division by zero"),
    "z[i] = b[i]*(-1)**i": (13, "'-1' is not positive", "where(j % 2 == 0, 1, -1)"),
    "z[i] = b[i]*((((9)**16)**16)**16)": (15, "too large or too small", "scale"),
    "z[i] = b[i]*exp(exp(exp(9)))": (17, "too large or too small", "scale"),
    "z[i] = b[i]*" + "9" * 500: (13, "longer than 64 digits", "shorten"),
    "z[i] = b[i]*1e999": (13, "'1e999' is not a plain number", "an integer or a decimal"),
    "z[i] = max(b[i], 1, 2, 3, n, q)": (8, "max has 6 arguments", "2 to 4"),
    "z[i] = sum[" + ",".join(f"a{c}" for c in range(9)) + "](b[i])": (8, "sum has 9 indices", "1 to 8"),
    "z[i] = b[i]*x[(n + m)*(n + m)*(n + m)]": (15, "multiplies two sums", "multiply it out"),
    # not a number
    "z[i] = b[i]/(1 - 1)": (8, "not a real number", "division by zero"),
    "z[i] = log(0)*b[i]": (8, "not a real number", "logarithm"),
    "z[i] = sqrt(-2)*b[i]": (8, "not a real number", "root or logarithm of a negative"),
    # names and indices
    "z[i] = V[i]": (8, "unknown name 'V'", "declare it as an input or a parameter"),
    "z[i] = strde*b[i]": (8, "unknown name 'strde'", "did you mean 'stride'?"),
    "z[i] = W[i, j]*x[j]": (13, "index 'j' is not bound", "sum[j](...)"),
    "z[i] = sum[j](sum[j](W[i, j])*x[j])": (19, "index 'j' is already bound", "rename the inner one"),
    "z[i] = sum[i](b[i])*b[i]": (12, "index 'i' is already bound", "rename the inner one"),
    "z[i, i] = b[i]": (6, "index 'i' is already bound", "rename the inner one"),
    "z[n] = b[n]": (3, "index 'n' has the name of a declared", "rename the index"),
    "z[i] = sum[x](x[x])*b[i]": (12, "index 'x' has the name of a declared", "rename the index"),
    "z[z] = b[z]": (3, "index 'z' has the name of the tensor being defined", "rename the index"),
    "z[s] = b[s]": (3, "'s' is the batch index", "rename it"),
    "z[i] = sum[s](x[s])*b[i]": (12, "'s' is the batch index", "rename it"),
    "z[i] = sum[j](W[i, j]*b[j])": (25, "index 'j' runs over 'm' in b[j], but is used over 'n'", "the same size"),
    "z[i] = sum[j:4](x[j])*b[i]": (19, "index 'j' runs over 'n' in x[j], but is declared over '4'", "where j < 4"),
    "z[i:m] = max[j](x[j], x[j] > 0)": (23, "cannot leave out scores by their values", "where(u[j] > 0, exp(u[j]), 0)"),
    "z[i] = where(b[i] == 0, 1, b[i])": (14, "compares real numbers for equality", "by < or >"),
    "z[i] = b[i]*std[j](x[j])": (13, "unknown name 'std'", "sqrt(var[k](u[k]))"),
    "z[i] = b[i]*smu[j](x[j])": (13, "unknown name 'smu'", "did you mean 'sum'?"),
    "z[i] = sig(b[i])": (8, "'sig' is not a function", "did you mean 'sign'?"),
    "z[i] = relu6(b[i])": (8, "'relu6' is not a function", "clip(v, 0, 6)"),
    "z[i] = W[i, i]": (13, "index 'i' runs over 'n' in W[i, i], but is used over 'm'", "two indices"),
    "z[i] = sum[j:m](x[j])*b[i]": (19, "index 'j' runs over 'n' in x[j], but is declared over 'm'", "the same size"),
    "z[i] = sum[j:o](x[2*j])*b[i]": (14, "'o' is not a declared size", "add it to 'sizes'"),
    "z[i] = q": (3, "index 'i' never indexes an axis on its own", "such as i:m"),
    "z[i] = sum[j](x[2*j])*b[i]": (12, "index 'j' never indexes an axis on its own", "such as j:n"),
    "z[i] = sum[j+1](x[j])*b[i]": (12, "'j+1' is not an index", "a plain name"),
    "z[i] = sum[()](b[i])": (8, "sum has 0 indices", "1 to 8"),
    "z[i] = sum[j:n:2](x[j])*b[i]": (12, "'j:n:2' is not an index", "a plain name"),
    "z[i + 1] = b[i]": (3, "'i + 1' is not an index", "a plain name"),
    "z[i] = t*b[i]": (8, "integer input 't' is used as a number", "in brackets only"),
    "z[i] = sum[j](u[j]*W[i, j])": (15, "integer input 'u[j]' is used as a number", "in brackets only"),
    "z[i] = W*b[i]": (8, "'W' has no indices here but has 2 axes (m, n)", "W[., .]"),
    "z[i] = b[i, 0]": (8, "'b' has 1 axis (m) but 2 indices are given", "one index per axis"),
    "z[i] = q[i]": (8, "'q' has no axes but 1 index is given", "one index per axis"),
    "z[i] = b[i]*x[0.5]": (15, "'0.5' is used as an index", "integers"),
    "z[i] = b[i]*x[n/2]": (15, "'n/2' cannot be an index", "integers, sizes"),
    "z[i] = b[i]*x[q]": (15, "'q' is not an integer input", "'values'"),
    "z[i] = b[i]*x[b[i]]": (15, "'b[i]' cannot be an index", "integers, sizes"),
    "z[i] = b[i]*x[i*i]": (15, "multiplies two indices", "integers and sizes only"),
    "z[i] = b[i]*x[:]": (15, "':' cannot be an index", "integers, sizes"),
    "z[i] = b[i]*x[-1]": (15, "index -1 lies outside", "count from 0 to n - 1"),
    "z[i] = b[i](0)": (8, "cannot be called", "a product"),
    "z[i] = sum(b[i])": (8, "sum has no index", "sum[j](...)"),
    "z[i] = sum[j]*b[i]": (8, "sum[..] has no body", "write its body"),
    "z[i] = sum[j](x[j], 2)*b[i]": (21, "'2' is not a condition", "compare two"),
    "z[i] = sum[j](x[j], j <= i, 2)*b[i]": (8, "sum has 3 arguments", "give it one"),
    "z[i] = sqrt()*b[i]": (8, "sqrt has 0 arguments", "one argument"),
    "z[i] = max(b[i])": (8, "max has 1 arguments", "2 to 4"),
    "z[i] = delta(i)*b[i]": (8, "delta does not have two arguments", "two index expressions"),
    "b[i] = b[i]": (1, "'b' is defined twice", "another name"),
    "sum[i] = b[i]": (1, "'sum' is reserved", "rename it"),
    "class[i] = b[i]": (6, "cannot read this", "fix the brackets"),
    "_z[i] = b[i]": (1, "'_z' cannot name a tensor", "a letter first"),
    "z[_i] = b[_i]": (3, "'_i' cannot name an index", "a letter first"),
    "a__b[i] = b[i]": (1, "'a__b' cannot name a tensor", "single underscores"),
    "z" * 41 + "[i] = b[i]": (1, "longer than 40", "shorten"),
    "z.y = b[i]": (1, "'z.y' cannot be defined", "a name and its indices"),
    "z, y = b[i]": (1, "'z, y' cannot be defined", "a name and its indices"),
    "z[a,b0,c,d,e,f,g,h,l] = b[0]": (1, "'z' has 9 indices, more than 8", "join"),
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text[:50]))
def test_a_bad_formula_is_refused_at_its_place_and_fast(text: str) -> None:
    column, cause, fix = BAD[text]
    with within(0.5), pytest.raises(SpecError) as caught:
        parse_definition(Excerpt(text, "mine.toml"), NAMES)
    message = str(caught.value)
    assert cause in message
    assert fix in message
    assert (caught.value.filename, caught.value.line) == ("mine.toml", 1)
    assert caught.value.column == column
    assert message.startswith(f"mine.toml, line 1, column {column}: ")
    assert len(message) < 1000


@pytest.mark.parametrize("word", {**NEAREST_FUNCTIONS, **NEAREST_REDUCTIONS})
def test_what_a_refusal_offers_reads(word: str) -> None:
    names = NAMES.with_tensor("w", Named(tensor("w"), (m,), (s,)))
    names = names.with_tensor("token", Named(tensor("token", values=m), (sympy.Integer(1),), (s,)))
    for forms in (NEAREST_FUNCTIONS, NEAREST_REDUCTIONS):
        if word in forms:
            form = re.sub(r"\bv\b", "w[i]", forms[word].replace("u[", "w["))
            assert parse_definition(f"z[i] = w[i]*({form})", names)


def test_the_caret_stands_under_the_offending_part() -> None:
    with pytest.raises(SpecError) as caught:
        parse_definition("z[i] =\n  b[i]*VV[i]", NAMES)
    assert str(caught.value).splitlines()[1:] == ["      b[i]*VV[i]", "           ^^"]
    assert (caught.value.line, caught.value.column) == (2, 8)


def test_the_left_side_must_agree_with_the_declaration() -> None:
    with pytest.raises(SpecError, match=r"defines 'y', but the output is declared as 'z'"):
        parse_definition("y[i] = b[i]", NAMES, target="z", axes=(m,))
    with pytest.raises(SpecError, match=r"'z' has 1 indices here, but its declared axes are: m, n"):
        parse_definition("z[i] = b[i]", NAMES, target="z", axes=(m, n))
    with pytest.raises(SpecError, match=r"size 'n' is declared as 'm'"):
        parse_definition("z[i:n] = 1", NAMES, target="z", axes=(m,))


def test_in_a_batched_formula_s_runs_over_the_batch_and_nothing_else() -> None:
    names = Namespace({"B": s.size, "n": n}, {"x": Named(x, (s.size, n))}, batched=True)
    with pytest.raises(SpecError, match="'s' is the batch index, over 'B'"):
        parse_definition("z[l] = sum[s](x[l, s])", names)
    with pytest.raises(SpecError, match="'z' has no index"):
        parse_definition("z = sum[s, j](x[s, j])", names)


r, kappa = Symbol("r", positive=True), Symbol("kappa", positive=True)
ANGLES: dict[str, Expr] = {
    "atan(r)": sympy.atan(r),
    "r/(1+r)": r / (1 + r),
    "pi/4": sympy.pi / 4,
    "2*atan(r/2)": 2 * sympy.atan(r / 2),
    "tanh(r)*pi/2 + exp(-r) - log(1 + r)": sympy.tanh(r) * sympy.pi / 2 + sympy.exp(-r) - sympy.log(1 + r),
    "max(r, 1)/sqrt(n)*abs(cos(r))": sympy.Max(r, 1) / sympy.sqrt(n) * sympy.Abs(sympy.cos(r)),
    "atan(sqrt(kappa)*r**(1/2))": sympy.atan(sympy.sqrt(kappa) * sympy.sqrt(r)),
}


@pytest.mark.parametrize("text", ANGLES)
def test_an_angle_means_what_it_says(text: str) -> None:
    assert parse_angle(text) == ANGLES[text]


@pytest.mark.parametrize(
    ("text", "column", "cause"),
    [
        ("atan(x)", 6, "unknown name 'x'"),
        ("kapa*r", 1, "did you mean 'kappa'?"),
        ("r[0]", 1, "no indexed names"),
        ("sum[j](r)", 1, "no sums"),
        ("sum(r)", 1, "sum has no index"),
        ("atan(r, r)", 1, "atan has 2 arguments"),
        ("r.real", 1, "an attribute"),
        ("__import__('os').system('ls')", 12, "character"),
        ("r = 1", 3, "cannot read this"),
        ("lambda: r", 1, "a lambda"),
        ("r**r", 4, "exponent 'r' is not a number"),
        ("9**9**9", 4, "exponent '9**9' is not a number"),
        ("atan(" * 30 + "r" + ")" * 30, 125, "nested deeper"),
        ("sqrt(-pi)", 1, "not a real number"),
        ("", 1, "empty"),
    ],
)
def test_a_bad_angle_is_refused_at_its_place(text: str, column: int, cause: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_angle(text)
    assert cause in str(caught.value)
    assert str(caught.value).startswith(f"<angle>, line 1, column {column}: ")
