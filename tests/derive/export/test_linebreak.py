"""Long formulas are broken into lines that fit, lose nothing and stay valid LaTeX."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from derive.export.linebreak import break_lines
from derive.export.pdf import overfull_points, run_pdflatex
from derive.export.tokens import pieces, width

ATOM = some.sampled_from(
    [
        r"x_{s j}",
        r"W_{i j}",
        r"\lVert x_{s} \rVert^{2}",
        r"\delta_{i i'}",
        r"\sqrt{n + 1}",
        r"\frac{\eta}{n}",
        r"\sum_{j} x_{s, 2 j}",
        r"\left[ 0 \le 2 j - p < n \right]",
        r"\mathit{divisor}_{s}",
        r"e^{- v_{s i}}",
    ]
)
FORMULA = some.recursive(
    ATOM,
    lambda inner: some.one_of(
        some.lists(inner, min_size=2, max_size=6).map(" + ".join),
        some.lists(inner, min_size=2, max_size=4).map(lambda f: " ".join(rf"\left( {part} \right)" for part in f)),
        inner.map(lambda part: rf"\sqrt{{{part}}}"),
        some.tuples(inner, inner).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
        inner.map(lambda part: rf"\left( {part} \right)^{{3/2}}"),
    ),
    max_leaves=40,
)


def letters(latex: str) -> list[str]:
    """What a formula is made of, without the marks that breaking adds or rewrites."""
    latex = re.sub(r"\\resizebox\{[^}]*\}\{!\}\{\$\\displaystyle (.*)\$\}", r"\1", latex)
    latex = re.sub(r"\\(frac|sqrt|left|right|bigl|bigr|biggl|biggr|quad|times)(?![a-z])", "", latex)
    return sorted(re.findall(r"\\[a-z]+|[a-zWA-Z]", latex))


@given(FORMULA)
def test_lines_fit_balance_and_lose_nothing(formula: str) -> None:
    lines = break_lines(formula, 250.0)
    assert letters(" ".join(lines)) == letters(formula)
    for line in lines:
        assert line.count("{") == line.count("}")
        assert line.count(r"\left") == line.count(r"\right")
        if r"\resizebox" not in line:
            assert width(line.replace(r"\quad", "").replace(r"\times", "")) < 250.0 * 1.1


def test_a_short_formula_stays_as_it_is() -> None:
    assert break_lines(r"W_{i} \cdot x_{s} + b_{i}") == [r"W_{i} \cdot x_{s} + b_{i}"]


def test_lines_end_before_signs_of_the_outermost_terms() -> None:
    term = r"x_{s j} \left( a_{i} + b_{i} \right)"
    lines = break_lines(" + ".join([term] * 8), 250.0)
    assert len(lines) > 1
    assert all(line.startswith(r"\quad +") for line in lines[1:])
    assert all(r"\big" not in line for line in lines)


def test_a_bracket_across_lines_gets_a_fixed_size() -> None:
    lines = break_lines(r"f_{s} \left( " + " + ".join(["x_{s j}"] * 30) + r" \right)^{2}", 250.0)
    assert lines[0].startswith(r"f_{s} \bigl(")
    assert lines[-1].endswith(r"\bigr)^{2}")


def test_a_wide_root_and_a_wide_fraction_are_rewritten() -> None:
    long = " + ".join(["x_{s j}"] * 30)
    assert break_lines(rf"\sqrt{{{long}}}", 250.0)[-1].endswith(r"\bigr)^{1/2}")
    assert break_lines(rf"\frac{{{long}}}{{n}}", 250.0)[0].startswith(r"\frac{1}{n} \bigl(")
    assert break_lines(rf"\frac{{n}}{{{long}}}", 250.0)[-1].endswith(r"\bigr)^{-1}")


def test_a_function_keeps_its_argument_beside_it() -> None:
    formula = " + ".join([r"\sigma'\left( u_{s i} \right) \frac{\partial}{\partial b_{i}}\left( x_{s} \right)"] * 6)
    for line in break_lines(formula, 120.0):
        assert not re.match(r"\\quad \\times \\(left|big)", line)


def test_what_cannot_be_broken_is_scaled() -> None:
    (line,) = break_lines(r"\mathit{" + "a" * 300 + "}", 250.0)
    assert line.startswith(r"\resizebox{250pt}")


def test_pieces_of_a_bracket_pair() -> None:
    assert [piece.role for piece in pieces(r"a \left( b + c \right)^{2}")] == [
        "atom",
        "open",
        "atom",
        "term",
        "atom",
        "close",
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_estimated_widths_are_close_to_the_set_ones(tmp_path: Path) -> None:
    formulas = [
        r"\left( x_{s} \cdot x_{s'} + 1 \right) \delta_{i i'}",
        r"W_{i} \cdot x_{s} + b_{i} - \eta \sum_{s', j} g_{s' i} x_{s j} x_{s' j}",
        r"\frac{W_{i} \cdot x_{s}}{\sqrt{\lVert x_{s} \rVert^{2} + 1}}",
        r"\sum_{c, k_{h}, k_{w}} W_{o c k_{h} k_{w}} x_{s, c, \alpha_{h} p_{h} + \beta_{h} k_{h} - \rho_{h}}",
        r"\left[ 0 \le \alpha_{h} p_{h} + \beta_{h} k_{h} - \rho_{h} < L_{h} \right]",
    ]
    measured = "\n".join(rf"\setbox0\hbox{{$\displaystyle {f}$}}\typeout{{WIDTH \the\wd0}}" for f in formulas)
    source = tmp_path / "widths.tex"
    source.write_text(rf"\documentclass{{article}}\usepackage{{amsmath}}\begin{{document}}{measured}\end{{document}}")
    log = run_pdflatex(source, tmp_path)
    true = [float(match) for match in re.findall(r"WIDTH ([\d.]+)pt", log)]
    assert overfull_points(log) == []
    for formula, points in zip(formulas, true, strict=True):
        assert points <= width(formula) * 1.03 + 3
        assert width(formula) <= points * 1.3 + 5
