"""Layers from TOML files and from ``forward``: the meaning of valid files, and the errors of invalid ones."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import sympy
from sympy import Symbol

import derive
from derive.algebra.equality import equal
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, IndexTensor, Within, tensor
from derive.compose import only
from derive.errors import UsageError
from derive.excerpt import SpecError
from derive.forward_map import BATCH, LayerError
from derive.record import Status
from derive.spec import forward, load_spec, loads_spec
from derive.update import effective_update
from tests.derive.pace import within

GOOD = """\
# a layer
name = "scaled_affine"
title = "Scaled affine map"
sizes = ["n", "m"]
[input]
x = ["n"]
[parameters]
W = ["m", "n"]
b = ["m"]
[output]
z = ["m"]
definitions = ["u[i] = sum[j](W[i, j]*x[j])"]
formula = "z[i] = u[i]/sqrt(n) + b[i]"
"""
s = BATCH
n, m, v = (size_symbol(name) for name in ("n", "m", "v"))
i, j = Index("i", m), Index("j", n)
x, W, b, u = tensor("x"), tensor("W"), tensor("b"), tensor("u")


def refused(text: str | bytes, tmp_path: Path) -> SpecError:
    """Return the error of a file with that content, which must be raised quickly."""
    path = tmp_path / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with within(0.5), pytest.raises(SpecError) as caught:
        load_spec(path)
    assert len(str(caught.value)) < 1000
    return caught.value


def test_a_file_means_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    layer = derive.load_spec(path)
    assert (layer.name, layer.title) == ("scaled_affine", "Scaled affine map")
    assert layer.sizes == (s.size, n, m)
    assert [(t.name, t.axes, t.values) for t in layer.inputs] == [("x", (s.size, n), None)]
    assert [(t.name, t.axes) for t in layer.parameters] == [("W", (m, n)), ("b", (m,))]
    (middle,) = layer.definitions
    assert (middle.name, middle.indices) == ("u", (s, i))
    assert equal(middle.expression, IndexedSum(W[i, j] * x[s, j], j))
    assert (layer.output.name, layer.output.indices) == ("z", (s, i))
    assert equal(layer.output.expression, u[s, i] / sympy.sqrt(n) + b[i])


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.replace('"z[i] = u[i]/sqrt(n) + b[i]"', '"""\nz[i] = u[i]/sqrt(n)\n  + b[i]"""'),
        GOOD.replace('"z[i] = u[i]/sqrt(n) + b[i]"', "'z[i] = u[i]/sqrt(n) + b[i]'"),
        GOOD.replace('"z[i] = u[i]', '"\\u007a[i] = u[i]'),
        GOOD.replace('[input]\nx = ["n"]', 'input = { x = ["n"] }'),
        GOOD.replace('[input]\nx = ["n"]', 'input.x = [\n  "n", # features\n]'),
        GOOD.replace('x = ["n"]', 'x = { axes = ["n"] }'),
    ],
)
def test_the_same_file_written_otherwise_is_the_same_layer(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode())
    assert load_spec(path) == loads_spec(GOOD)


def test_integer_inputs_offsets_and_fixed_axes() -> None:
    layer = loads_spec(
        """
        name = "taps"
        sizes = ["v", "m", "n", "P"]
        offsets = ["pad"]
        input = { t = { axes = [], values = "v" }, x = ["n"] }
        parameters = { E = ["v", "m"], f = [3], c = ["2"] }
        [output]
        z = ["m", "P"]
        formula = "z[i, p] = E[t, i] + sum[k](f[k]*x[p + k - pad]) + sum[l](c[l])"
        """
    )
    pad, p, tap = Symbol("pad", integer=True, nonnegative=True), Index("p", size_symbol("P")), Index("k", 3)
    place = p + tap - pad
    convolved = IndexedSum(tensor("f")[tap] * x[s, place] * Within(place, n), tap)
    token = IndexTensor("t", v)[s]
    assert layer.inputs[0].values == v
    assert layer.sizes[-1] == pad
    pair = Index("l", 2)
    assert [t.axes for t in layer.parameters] == [(v, m), (sympy.Integer(3),), (sympy.Integer(2),)]
    assert equal(layer.output.expression, tensor("E")[token, i] + convolved + IndexedSum(tensor("c")[pair], pair))


CHANGES: list[tuple[str, str, int, int, str, str]] = [  # old, new, line, column, cause, fix
    ("u[i]/sqrt(n)", "u[i]/sqrt(q)", 13, 29, "unknown name 'q'", "declare it"),
    ("u[i]/sqrt(n)", "u[i]/\\u0073qrt(q)", 13, 34, "unknown name 'q'", "declare it"),
    ('"z[i] = u[i]', '"""\nz[i] =\\\n   u[i] + q """ # ', 15, 11, "unknown name 'q'", "declare it"),
    ("j](W", "j](V", 12, 31, "unknown name 'V'", "declare it"),
    ("*x[j]", "*z[j]", 12, 39, "unknown name 'z'", "define it earlier"),
    ("*x[j]", "*b[j]", 12, 41, "index 'j' runs over 'm' in b[j], but is used over 'n'", "the same size"),
    ("+ b[i]", "+ b[i].T", 13, 34, "an attribute", "a formula may hold"),
    ("+ b[i]", "+ b[i]**999", 13, 40, "exponent '999' is too large", "at most 16"),
    ("sizes", "size", 4, 1, "unknown key 'size'", "did you mean 'sizes'?"),
    ('sizes = ["n", "m"]\n', "", 1, 1, "'sizes' is missing", 'add sizes = ["n", "m"]'),
    ('["n", "m"]', "3", 4, 9, "'sizes' is an integer, not a list", 'write sizes = ["n", "m"]'),
    ('["n", "m"]', '["n", 5]', 4, 15, "an integer is not a string", "in quotes"),
    ('["n", "m"]', '["n", "m", "n"]', 4, 21, "size 'n' is declared twice", "remove one"),
    ('["n", "m"]', '["n", "m", "B"]', 4, 21, "'B' is the batch", "rename the size"),
    ('["n", "m"]', '["n", "m", "2m"]', 4, 21, "'2m' cannot name a size", "a letter first"),
    ('["n", "m"]', '["n", "m", "lambda"]', 4, 21, "'lambda' is a keyword of Python", "another name"),
    ('["n", "m"]', '["n", "m", "__class__"]', 4, 21, "'__class__' cannot name a size", "a letter first"),
    ('["n", "m"]', '["n", "m", "sqrt"]', 4, 21, "'sqrt' is reserved", "rename it"),
    ('["n", "m"]', '["n", "m", "ñ"]', 4, 21, "cannot name a size", "ASCII only"),
    ('["n", "m"]', '["n"]', 8, 7, "axis 'm' is not a declared size", "add it to 'sizes'"),
    ('["n", "m"]', "[" + '"n", ' * 65 + "]", 4, 1, "'sizes' has 65 entries, more than 64", "shorten it"),
    ('W = ["m", "n"]', 'W = ["m", "n", 0]', 8, 16, "axis '0' is not a declared size", "a positive integer"),
    ('W = ["m", "n"]', 'W = ["m", true]', 8, 11, "true or false is not a size", "the name of a size"),
    ('W = ["m", "n"]', 'W = ["m", -2]', 8, 11, "axis '-2' is not a declared size", "a positive integer"),
    ('W = ["m", "n"]', 'W = ["m", 1.5]', 8, 11, "a decimal is not a size", "the name of a size"),
    ('W = ["m", "n"]', 'W = ["m", ["n"]]', 8, 11, "a list is not a size", "the name of a size"),
    ('W = ["m", "n"]', 'W = ["m", "m"]', 12, 41, "index 'j' runs over 'n' in x[j], but is used over 'm'", "same size"),
    ('W = ["m", "n"]', 'W = ["m"]', 12, 31, "'W' has 1 axis (m) but 2 indices are given", "one index per axis"),
    ('W = ["m", "n"]', 'W = "m n"', 8, 6, "'W' is a string, not a list", 'write W = ["n"]'),
    ('W = ["m", "n"]', "W = [" + "1, " * 9 + "]", 8, 1, "'W' has 9 axes, more than 8", "join"),
    ('W = ["m", "n"]', "W = 0x" + "9" * 9999, 8, 5, "'W' is an integer, not a list", 'write W = ["n"]'),
    ('W = ["m", "n"]', "W = 1979-05-27", 8, 5, "'W' is a date or time, not a list", 'write W = ["n"]'),
    ('b = ["m"]', 'x = ["m"]', 9, 1, "name 'x' is declared twice", "rename one"),
    ('b = ["m"]', 'm = ["m"]', 9, 1, "name 'm' is declared twice", "rename one"),
    (
        'b = ["m"]',
        'b = ["m"]\nc = ["m"]',
        10,
        1,
        "'c' is declared, but no formula depends on it",
        "use it or remove it",
    ),
    ('b = ["m"]', 'b = ["m"]\nb = ["m"]', 10, 10, "not TOML: Cannot overwrite a value", "fix the syntax"),
    ('b = ["m"]', 'b = ["m"', 10, 1, "not TOML: Unclosed array", "fix the syntax"),
    ('b = ["m"]', 'b = { axes = ["m"] }', 9, 5, "'b' is a table, not a list", 'write b = ["n"]'),
    ('b = ["m"]', "", 13, 34, "unknown name 'b'", "declare it"),
    ('W = ["m", "n"]\nb = ["m"]', "", 7, 2, "no parameters to learn", "add a section [parameters]"),
    ('x = ["n"]', "", 5, 2, "no input", "add a section [input]"),
    ('x = ["n"]', 'x = ["n"]\ny = ["n"]', 7, 1, "'y' is declared, but no formula depends on it", "use it or remove it"),
    ('x = ["n"]', 'x = { axes = ["n"], value = "m" }', 6, 21, "unknown key 'value'", "did you mean 'values'?"),
    ('x = ["n"]', 'x = { values = "m" }', 6, 1, "'axes' is missing", 'add axes = ["n"]'),
    (
        'x = ["n"]',
        'x = { axes = ["n"], values = ["m"] }',
        6,
        30,
        "a list is not a size",
        "the name of a size",
    ),
    (
        'x = ["n"]',
        'x = { axes = ["n"], values = "m" }',
        12,
        39,
        "integer input 'x[j]' is used as a number",
        "brackets only",
    ),
    ("[input]", "[inputs]", 5, 2, "unknown key 'inputs'", "did you mean 'input'?"),
    ("[input]", "[[input]]", 5, 3, "'input' is a list, not a table", "write a section [input]"),
    ("[output]", "", 13, 12, "'formula' is a string, not a list", "write formula = "),
    ('z = ["m"]', "", 10, 2, "[output] declares 0 outputs, not one", 'such as z = ["m"]'),
    ('z = ["m"]', 'z = ["m"]\ny = ["m"]', 12, 1, "[output] declares 2 outputs, not one", 'such as z = ["m"]'),
    ('z = ["m"]', 'y = ["m"]', 13, 12, "the formula defines 'z', but the output is declared as 'y'", "use one name"),
    ('z = ["m"]', 'z = ["m", "n"]', 13, 12, "'z' has 1 indices here, but its declared axes are: m, n", "one index"),
    ('z = ["m"]', 'z = ["n"]', 13, 21, "index 'i' runs over 'm' in u[i], but is declared over 'n'", "the same size"),
    ('formula = "z[i] = u[i]/sqrt(n) + b[i]"', "", 10, 2, "'formula' is missing", 'add formula = "z[i] = sum'),
    ('"z[i] = u[i]/sqrt(n) + b[i]"', '["z"]', 13, 11, "'formula' is a list, not a string", "write formula = "),
    ('"z[i] = u[i]/sqrt(n) + b[i]"', '""', 13, 11, "the formula is empty", "write one such as"),
    ('["u[i] = sum[j](W[i, j]*x[j])"]', '"u[i] = b[i]"', 12, 16, "'definitions' is a string, not a list", "write"),
    (
        'x[j])"]',
        'x[j])", "y[i] = b[i]"]',
        12,
        48,
        "'y' is defined, but no later formula uses it",
        "use it or remove it",
    ),
    ('x[j])"]', 'x[j])", "u[i] = u[i]"]', 12, 48, "'u' is defined twice", "another name"),
    ('"scaled_affine"', '"class"', 2, 9, "'class' is a keyword of Python", "another name"),
    ('"scaled_affine"', '"a b"', 2, 9, "'a b' cannot name a layer", "a letter first"),
    ('"scaled_affine"', '"' + "a" * 41 + '"', 2, 9, "longer than 40 characters", "shorten"),
    ('"scaled_affine"', "3", 2, 8, "'name' is an integer, not a string", 'write name = "my_layer"'),
    ('name = "scaled_affine"\n', "", 1, 1, "'name' is missing", 'add name = "my_layer"'),
    ('"Scaled affine map"', '"\\\\write18{ls}"', 3, 10, "cannot be printed everywhere", "ASCII letters"),
    ('"Scaled affine map"', '"a\\nb"', 3, 10, "cannot be printed everywhere", "one line"),
    ("title", "Title", 3, 1, "unknown key 'Title'", "did you mean 'title'?"),
    ("# a layer", "[" * 50_000, 1, 3, "not TOML", "fix the syntax"),
    ("# a layer", "a = " + "[" * 50_000, 1, 1, "nested too deeply", "no nested lists"),
    ("# a layer", "a = " + "{a=" * 20_000, 1, 1, "nested too deeply", "no nested lists"),
    ("# a layer", "a" + ".a" * 30_000 + " = 1", 1, 1, "more than 100 dots", "shorten"),
    ("# a layer", "a = " + "9" * 50_000, 1, 1, "too many digits", "shorten"),
    ("# a layer", "\x00", 1, 1, "not TOML", "fix the syntax"),
    ("# a layer", "#" * 70_000, 1, 1, "larger than 64 KiB", "a few lines"),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: ascii(f"{change[0][:30]} -> {change[1][:30]}"))
def test_a_bad_file_is_refused_at_its_place_and_fast(
    change: tuple[str, str, int, int, str, str], tmp_path: Path
) -> None:
    old, new, line, column, cause, fix = change
    assert GOOD.count(old) >= 1
    error = refused(GOOD.replace(old, new, 1), tmp_path)
    assert cause in str(error)
    assert fix in str(error)
    assert (error.line, error.column) == (line, column)
    assert str(error).startswith(f"{tmp_path / 'mine.toml'}, line {line}, column {column}: ")


def test_binary_garbage_is_refused_at_the_first_byte_that_is_not_text(tmp_path: Path) -> None:
    error = refused(b"name = 1\n# \x89PNG\r\n\x1a\n" + random.Random(0).randbytes(10_000), tmp_path)
    assert (error.line, error.column) == (2, 3)
    assert "byte 0x89 is not UTF-8 text; save the file as plain UTF-8 text" in str(error)


@pytest.mark.parametrize("content", [b"a = 1\n", b"\x89PNG", b"["])
def test_ten_megabytes_are_refused_unread(content: bytes, tmp_path: Path) -> None:
    error = refused(content * (10_000_000 // len(content)), tmp_path)
    assert "line 1, column 1: the file is larger than 64 KiB; a layer needs a few lines" in str(error)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    for path, cause in [
        (tmp_path, "is a folder; give the path of a .toml file"),
        (tmp_path / "none.toml", "is not a file; check the path"),
        (tmp_path / ("a" * 5000), "cannot be read: File name too long"),
        (Path("a\0b"), "is not a file"),
        (Path(os.devnull), "is not a file"),
    ]:
        with pytest.raises(SpecError, match=cause):
            load_spec(path)


def test_a_refusal_is_a_usage_error_with_the_line_and_a_caret(tmp_path: Path) -> None:
    error = refused(GOOD.replace("sqrt(n)", "sqrt(q)"), tmp_path)
    assert isinstance(error, LayerError)
    assert isinstance(error, UsageError)
    assert str(error).splitlines()[1:] == [
        '    formula = "z[i] = u[i]/sqrt(q) + b[i]"',
        "                                ^",
    ]


def test_a_long_line_is_shown_in_part(tmp_path: Path) -> None:
    error = refused(GOOD.replace("+ b[i]", "+ b[i]" * 50 + " + q"), tmp_path)
    _, shown, marks = str(error).splitlines()
    assert len(shown) < 100
    assert shown[marks.index("^")] == "q"


def test_forward_and_a_file_give_the_same_layer() -> None:
    layer = forward(
        "scaled_affine",
        title="Scaled affine map",
        sizes="n m",
        inputs={"x": "n"},
        parameters={"W": "m n", "b": "m"},
        formulas=["u[i] = sum[j](W[i, j]*x[j])", "z[i] = u[i]/sqrt(n) + b[i]"],
    )
    assert layer == loads_spec(GOOD)


def test_forward_takes_scalars_and_batched_maps() -> None:
    layer = forward(
        "standardised",
        sizes="B n m",
        scalars="eps",
        inputs={"x": "B n"},
        parameters={"W": "m n"},
        formulas=[
            "mean_[j] = sum[s](x[s, j])/B",
            "variance[j] = sum[s]((x[s, j] - mean_[j])**2)/B",
            "z[s, i] = sum[j](W[i, j]*(x[s, j] - mean_[j])/sqrt(variance[j] + eps))",
        ],
        batched=True,
    )
    assert layer.scalars == (Symbol("eps", positive=True),)
    assert layer.sizes == (s.size, n, m)
    assert layer.output.indices == (s, i)
    assert [d.indices for d in layer.definitions] == [(j,), (j,)]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"values": {"y": "n"}}, "layer odd, values, line 1, column 1: 'y' is not an input"),
        ({"sizes": "n 1m"}, "layer odd, sizes, line 1, column 3: '1m' cannot name a size"),
        ({"parameters": {"W": "m q"}}, "layer odd, parameter W, line 1, column 3: axis 'q'"),
        ({"scalars": "n"}, "layer odd, scalars, line 1, column 1: scalar 'n' is declared twice"),
        ({"formulas": ["y[i] = W[i, 0]", "z[i] = y[i]*W[i, j]"]}, "layer odd, formula 2, line 1, column 18: index 'j'"),
        ({"batched": True, "sizes": "n m B"}, "layer odd, formula 1, line 1, column 1: the output of a batched layer"),
    ],
)
def test_forward_names_the_part_that_is_wrong(changes: dict[str, object], cause: str) -> None:
    good = {
        "sizes": "n m",
        "inputs": {"x": "n"},
        "parameters": {"W": "m n"},
        "formulas": ["z[i] = sum[j](W[i, j]*x[j])"],
    }
    with pytest.raises(SpecError) as caught:
        forward("odd", **{**good, **changes})  # type: ignore[arg-type]
    assert str(caught.value).startswith(cause)


LSTM = """
name = "cell"
sizes = ["n", "h"]
[input]
x = ["n"]
c0 = ["h"]
[parameters]
W = [3, "h", "n"]
[output]
c = ["h"]
z = ["h"]
definitions = ["a[g:3, i] = sum[j](W[g, i, j]*x[j])"]
formulas = ["c[i] = sigmoid(a[0, i])*c0[i] + sigmoid(a[1, i])", "z[i] = sigmoid(a[2, i])*tanh(c[i])"]
"""


def test_each_of_several_outputs_is_a_part() -> None:
    layer = loads_spec(LSTM)
    assert [part.name for part in layer.parts] == ["cell/c", "cell/z"] and layer.output.name == "c"
    first, second = (effective_update(part) for part in layer.parts)
    assert [d.name for d in layer.parts[0].definitions] == ["a"]
    assert [d.name for d in layer.parts[1].definitions] == ["a", "c"]
    assert all(step.verdict.status is Status.PROVED for part in (first, second) for step in part.check().steps)
    assert only(layer, 2) is layer.parts[1]
    renamed, longer = LSTM.replace(', "z[i]', ', "y[i]'), LSTM.replace('["c[i] =', '["c[i] = 1", "c[i] =')
    for wrong, says in ((renamed, "declared as 'z'"), (longer, "2 outputs are declared, but 'formulas' holds 3")):
        with pytest.raises(SpecError, match=says):
            loads_spec(wrong)
