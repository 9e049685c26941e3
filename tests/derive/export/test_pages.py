"""Pages as readers see them: one meaning a symbol, unique labels, formulas set as maths, layers of every odd kind."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import sympy
from sympy import Expr, IndexedBase

import derive
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, tensor
from derive.declare import forward
from derive.export import html, pdf
from derive.export.blocks import Block, Equation, Heading, Items, Math, Paragraph, Prose, Table
from derive.export.latex import page
from derive.export.linebreak import break_lines
from derive.export.notation import latex
from derive.export.outline import Chapter, derivation_blocks, document_blocks, equation_ids
from derive.export.prose import inline, plain
from derive.export.summary import CHAPTERS, chapter, full_derivation
from derive.export.symbols import Notation, notation_for
from derive.forward_map import BATCH, Layer
from derive.record import Derivation
from tests.derive.export.test_documents import OVERFULL_POINTS

needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def odd(name: str, formula: str, *definitions: str, inputs: str = "x", parameters: str = "W b") -> Layer:
    """A layer of vectors ``n`` and matrices ``m n``, under any names."""
    shapes = {p: "m" if p.lower().startswith(("b", "g2")) else "m n" for p in parameters.split()}
    tensors = dict.fromkeys(inputs.split(), "n")
    formulas = [*definitions, formula]
    return forward(name, sizes="n m", inputs=tensors, parameters=shapes, formulas=formulas)


def nested(template: str, depth: int, inner: str) -> str:
    for _ in range(depth):
        inner = template.format(inner)
    return inner


WX = "sum[j](W[i, j]*x[j])"
ODD: dict[str, Layer] = {
    "a square": odd("square", "z[i] = u[i]**2", f"u[i] = {WX}", parameters="W"),
    "powers of powers": odd("powers", "z[i] = v[i]**2*u[i]**(1/2)", f"u[i] = {WX}", "v[i] = u[i]**3", parameters="W"),
    "deep functions": odd("deep", f"z[i] = {nested('sin({})', 10, WX)}", parameters="W"),
    "deep fractions": odd("fractions", f"z[i] = {nested('1/(2 + {})', 6, WX)}", parameters="W"),
    "deep roots": odd("roots", f"z[i] = {nested('sqrt(1 + {}**2)', 3, f'({WX})')}", parameters="W"),
    "deep features": odd("features", f"z[i] = sum[j](W[i, j]*{nested('tanh({})', 8, 'x[j]')})", parameters="W"),
    "rectified": odd("rectified", f"z[i] = max({WX} + b[i], 0)"),
    "a power of a maximum": odd("clipped", f"z[i] = max({WX}, -1)**3", parameters="W"),
    "names of the engine": odd(
        "taken", "z[i] = f[i] + b2[i]", "f[i] = sum[j](K[i, j]*E[j])", inputs="E", parameters="K b2"
    ),
    "Greek names": odd(
        "greek",
        "z[i] = alpha[i]**2 + beta[i]",
        "alpha[i] = sum[j](gamma[i, j]*xi[j])",
        inputs="xi",
        parameters="gamma beta",
    ),
    "long names": odd(
        "longer",
        "z[i] = sum[j](weight_of_the_layer[i, j]*input_of_it[j]) + bias_of_it[i]",
        inputs="input_of_it",
        parameters="weight_of_the_layer bias_of_it",
    ),
    "marked names": odd("marked", "z[i] = sum[j](W_Q[i, j]*xhat[j]) + b2[i]", inputs="xhat", parameters="W_Q b2"),
    "many weights": odd(
        "many",
        "z[i] = " + " + ".join(f"sum[j]({c}[i, j]*x[j]**{k})" for k, c in enumerate("ACDHPQ", 1)),
        parameters="A C D H P Q",
    ),
    "a long product": odd(
        "product", f"z[i] = ({WX})*" + "*".join(f"tanh({k}*x[{k}] + 1)" for k in range(5)), parameters="W"
    ),
    "large numbers": odd("numbers", f"z[i] = {WX}*123456789/987654321", parameters="W"),
    "the name of a bundled layer": odd("affine", f"z[i] = 2*{WX} + b[i]"),
}


@cache
def derived(name: str) -> Derivation:
    return full_derivation(ODD[name])


@needs_tex
@pytest.mark.slow
def test_odd_layers_compile_and_nothing_sticks_out(tmp_path: Path) -> None:
    chapters = [Chapter(derived(name)) for name in ODD]
    source = tmp_path / "odd.tex"
    source.write_text(
        page(document_blocks([*chapters, chapter(derive.layer("affine"), check=False)])), encoding="utf-8"
    )
    log = pdf.run_pdflatex(source, tmp_path)
    assert [points for points in pdf.overfull_points(log) if points > OVERFULL_POINTS] == []
    assert "multiply defined" not in log and "undefined on input" not in log


def test_labels_are_unique_though_layers_share_a_name() -> None:
    chapters = [Chapter(derived("the name of a bundled layer")), chapter(derive.layer("affine"), check=False)]
    blocks = document_blocks([*chapters, chapters[0]])
    labels = re.findall(r"\\label\{([^}]*)\}", page(blocks))
    anchors = re.findall(r'id="([^"]*)"', html.page(blocks))
    for names in (labels, anchors, equation_ids(blocks)):
        assert len(names) == len(set(names)) > 60
    assert {"eq:affine/forward", "eq:2:affine/forward", "eq:3:affine/forward"} <= set(labels)


def random_expressions(count: int) -> Iterator[Expr]:
    """Expressions of every node that printing knows, nested a few levels deep, drawn by a fixed seed."""
    import random

    draw = random.Random(5)
    n, m = size_symbol("n"), size_symbol("m")
    s, i, j = BATCH, Index("i", m), Index("j", n)
    bases = [tensor(name) for name in ("x", "W'", "b2", "W_Q", "uu", "E_1", "xhat", "gamma'", "a_long_name")]
    one = [sympy.exp, sympy.tanh, sympy.sin, sympy.Abs, sympy.sign, sympy.Heaviside, sympy.log, sympy.atan, sympy.sqrt]

    def build(depth: int) -> Expr:
        if depth == 0:
            return draw.choice(bases)[draw.choice([(s, i), (s, j), (s.primed(), 2 * j + 1), (i.primed(), j)])]
        inner = build(depth - 1)
        match draw.randrange(7):
            case 0:
                return inner ** draw.choice(
                    [2, 3, -1, -2, sympy.Rational(1, 2), sympy.Rational(-3, 2), sympy.Rational(1, 3)]
                )
            case 1:
                return draw.choice(one)(inner)
            case 2:
                return inner + build(depth - 1)
            case 3:
                return -sympy.Rational(draw.randint(1, 9), draw.randint(1, 9)) * inner * build(depth - 1)
            case 4:
                return IndexedSum(inner, draw.choice([j, i]))
            case 5:
                return sympy.Max(inner, draw.choice([sympy.S.Zero, build(0)]))
        return inner / (1 + build(depth - 1) ** 2)

    for number in range(count):
        yield build(number % 6)


@needs_tex
def test_any_expression_prints(tmp_path: Path) -> None:
    blocks: list[Block] = [Heading(0, ("All",))]
    blocks += [Equation(None, "u'_{i}", (latex(expression),)) for expression in random_expressions(240)]
    source = tmp_path / "all.tex"
    source.write_text(page(blocks), encoding="utf-8")
    log = pdf.run_pdflatex(source, tmp_path)
    assert [points for points in pdf.overfull_points(log) if points > OVERFULL_POINTS] == []


COEFFICIENT = re.compile(r"(^|[-+(&]|\\quad|\\times|\\biggl?[lr]?\()\s*(\d+|\\[a-z]+|\\frac\{\d+\}\{\d+\}|\s)+$")


def test_no_line_parts_a_coefficient_from_its_factor() -> None:
    cut = []
    for expression in random_expressions(240):
        for line in break_lines(latex(expression), 150.0)[:-1]:
            bare = line.replace(r"\sum", "").strip()
            cut += [line] if COEFFICIENT.search(bare) else []
    assert cut == []


def prose_of(blocks: list[Block]) -> Iterator[Prose]:
    for block in blocks:
        if isinstance(block, Paragraph | Heading):
            yield block.prose
        elif isinstance(block, Items):
            yield from block.entries
        elif isinstance(block, Table):
            yield from (cell for row in (block.header, *block.rows) for cell in row)


ASCII = re.compile(r"[_^*`]|->|\b(sqrt|kappa|eta|lambda|alpha)\b|\w\[|\w\(\w\)|\d[a-z]\b| [-=<>+] |^[a-z]$")


def ascii_maths(blocks: list[Block]) -> list[str]:
    return [part for words in prose_of(blocks) for part in words if isinstance(part, str) and ASCII.search(part)]


@pytest.mark.parametrize("name", ["affine", "linear", "convolution-1d", "attention", "gated", "affine>rms-norm"])
def test_prose_holds_no_ascii_maths(name: str) -> None:
    blocks = document_blocks([chapter(derive.layer(name), check=False)])
    assert ascii_maths(blocks) == []


def test_ascii_maths_would_be_seen() -> None:
    for text in ("where f^2 E = kappa", "move by -eta g", "z -> W x", "sum[j](x)", "exact for any eta"):
        assert ascii_maths([Paragraph((text,))]) == [text]


@pytest.mark.parametrize("name", ["names of the engine", "Greek names", "marked names", "many weights"])
def test_prose_of_odd_layers_holds_no_ascii_maths(name: str) -> None:
    blocks = derivation_blocks(derived(name))
    names = {t.name for t in (*ODD[name].inputs, *ODD[name].parameters)}
    assert [text for text in ascii_maths(blocks) if not names & set(text.split())] == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_symbol_has_two_meanings(name: str) -> None:
    """On the pages of a layer no index has the letter of a tensor, a size or a scalar, and no size that of a tensor."""
    derivation = full_derivation(derive.layer(name))
    maps = [(found.steps, found.layer, found.mapped) for found in derivation.solutions]
    layer = derivation.layer
    tensors: set[str] = set()
    indices: set[str] = set()
    scalars: set[str] = set()
    groups: list[tuple[object, Notation]] = [(derivation.steps, notation_for(layer, *layer.parts))]
    groups += [
        (steps, notation_for(a, layer, *layer.parts).beside(notation_for(b, layer, *layer.parts)))
        for steps, a, b in maps
    ]
    for steps, notation in groups:
        for step in steps:  # type: ignore[attr-defined]
            for side in (step.target, step.before, step.after):
                named = {i for i in side.atoms(Index) if i.tag == 0}
                indices |= {notation(i).rstrip("'") for i in named}
                tensors |= {notation(base) for base in side.atoms(IndexedBase)}
                labels = {str(base.label) for base in side.atoms(IndexedBase)}
                plain = {t for t in side.atoms(sympy.Symbol) if not isinstance(t, Index) and t.name not in labels}
                sizes = {size for i in side.atoms(Index) for size in i.size.free_symbols}
                scalars |= {notation(symbol) for symbol in plain | sizes}
    assert not indices & tensors and not indices & scalars and not tensors & scalars


def test_a_page_is_read_in_the_light_and_in_the_dark(full: Callable[[str], Derivation]) -> None:
    """Columns are aligned by CSS, both colour schemes are declared, and primes are beside their letters."""
    pytest.importorskip("latex2mathml", reason="formulas are shown as LaTeX without it")
    text = html.page(document_blocks([full("affine")]))
    assert "color-scheme: light dark" in text and "prefers-color-scheme: dark" in text
    rows = re.findall(r"<mtr>.*?</mtr>", text, re.DOTALL)
    assert rows and all("text-align: right" in row and "text-align: left" in row for row in rows)
    assert "columnalign" in text and "<munder>" in text
    assert not re.search(r"<msup>(?:(?!</msup>).)*\u2032\s*</m[io]>\s*</msup>", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at `lambda = 0` it is `-eta*g`", ("at ", Math(r"\lambda = 0"), " it is ", Math(r"- \eta g"))),
        ("`x[s', 2*p + k] > 0`", (Math(r"x_{s', 2 p + k} > 0"),)),
        ("`sum[j](W[i, j]*x[s, j])`", (Math(r"W_{i} \cdot x_{s}"),)),
        ("`max(u, 0)` and no more", (Math(r"\max\left( u, 0 \right)"), " and no more")),
        ("`delta(i, i')`", (Math(r"\delta_{i i'}"),)),
        ("no formula", ("no formula",)),
    ],
)
def test_formulas_in_sentences(text: str, expected: Prose) -> None:
    assert inline(text) == expected
    assert "`" not in plain(text)


def test_what_is_no_formula_stays_as_it_is() -> None:
    for text in ("__import__('os')", "a; b", r"\input{x}", "1 +"):
        (shown,) = inline(f"`{text}`")
        assert not isinstance(shown, Math)


@pytest.mark.parametrize("name", ["affine", "convolution", "attention-value", "low-rank", "batch-norm>affine"])
def test_in_an_equation_a_letter_runs_over_one_axis(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every letter that a sum of an equation takes, on any side, is bound to one axis length, free ones included."""
    from derive.export.letters import Scope

    bound: dict[str, set[Expr]] = {}
    enter = Scope.enter

    def watched(scope: Scope, indices: tuple[Index, ...]) -> Scope:
        """Enter a sum, and note which letter runs over which axis."""
        inner = enter(scope, indices)
        for index in indices:
            bound.setdefault(inner.name(index), set()).add(index.size)
        return inner

    monkeypatch.setattr(Scope, "enter", watched)
    derivation = full_derivation(derive.layer(name))
    notation = notation_for(derivation.layer)
    for step in derivation.steps:
        bound.clear()
        notation.sides(step.target, step.before, step.after)
        for index in step.target.atoms(Index):
            if notation(index) in bound:
                bound[notation(index)].add(index.size)
        assert all(len(sizes) == 1 for sizes in bound.values()), (step.id, bound)


def test_two_sums_over_two_axes_take_two_letters() -> None:
    n, m = size_symbol("n"), size_symbol("m")
    j, k = Index("_1_0", n, -1), Index("_1_0", m, -1)
    x, y = tensor("x"), tensor("y")
    expression = IndexedSum(x[2 * j], j) + IndexedSum(y[2 * k], k)
    assert latex(expression) == r"\sum_{j} x_{2 j} + \sum_{k} y_{2 k}"
