"""Documents in every format: labels, escaping, well-formedness, and pdfLaTeX without an error or an overfull box."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

import derive
from derive.errors import UsageError
from derive.export import html, markdown, mathml, pdf
from derive.export.blocks import Code, Equation, Heading, Paragraph
from derive.export.escape import label
from derive.export.latex import document, fragment, latex
from derive.export.latex import page as latex_page
from derive.export.outline import Chapter, derivation_blocks, document_blocks, equation_ids
from derive.record import Derivation

Full = Callable[[str], Derivation]
LAYERS = ("affine", "linear", "attention", "low-rank", "gated")
OVERFULL_POINTS = 5.0
needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
VOID = {"meta", "br", "hr", "img", "link", "input"}


@pytest.fixture(scope="module")
def chapters(full: Full) -> list[Chapter]:
    return [Chapter(full(name)) for name in LAYERS]


def test_every_step_is_an_equation_with_its_id(full: Full) -> None:
    derivation = full("affine")
    ids = equation_ids(derivation_blocks(derivation))
    steps = [*derivation.steps, *(step for found in derivation.solutions for step in found.steps)]
    assert set(ids) == {step.id for step in steps}
    assert len(ids) == len(set(ids))
    for step in steps:
        assert f"\\label{{eq:{step.id}}}" in fragment(derivation)


def test_intermediates_come_before_their_use(full: Full) -> None:
    (affine_like,) = (found for found in full("affine").solutions if found.name == "affine-like")
    text = latex(affine_like)
    places = [text.index(f"eq:affine-like/{name}") for name in ("define-E", "define-f", "solution")]
    assert places == sorted(places)


def test_the_document_has_its_parts(chapters: list[Chapter]) -> None:
    text = document(chapters)
    for part in (r"\title{", r"\section{Affine map}", "reconstructed", "arXiv:2512.22247", r"\begin{thebibliography}"):
        assert part in text
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(labels) == len(set(labels)) > 100
    cited = set(re.findall(r"\\cite\{([^}]*)\}", text))
    assert cited <= set(re.findall(r"\\bibitem\{([^}]*)\}", text))
    assert "ours" in text


def test_the_assumptions_and_properties_of_maps_are_stated(full: Full) -> None:
    text = fragment(full("affine"))
    for found in full("affine").solutions:
        for known in found.properties:
            assert f"({known.basis}: " in text
    for words in ("scale invariant", "injective", "singular at zero", "residual", r"$\displaystyle \kappa > 1$"):
        assert words in text


@needs_tex
def test_pdflatex_compiles_without_an_overfull_box(
    chapters: list[Chapter], by_hand: Derivation, tmp_path: Path
) -> None:
    source = tmp_path / "derivation.tex"
    source.write_text(document([*chapters, Chapter(by_hand)]), encoding="utf-8")
    log = pdf.run_pdflatex(source, tmp_path)
    assert [points for points in pdf.overfull_points(log) if points > OVERFULL_POINTS] == []
    assert "multiply defined" not in log
    assert "undefined on input" not in log
    written = pdf.compile_pdf(source)
    assert written == tmp_path / "derivation.pdf"
    assert written.read_bytes().startswith(b"%PDF-")
    assert list(tmp_path.glob("*.part")) == []


@needs_tex
def test_the_same_document_gives_the_same_pdf(full: Full, tmp_path: Path) -> None:
    source = tmp_path / "one.tex"
    source.write_text(document([full("linear")]), encoding="utf-8")
    first = pdf.compile_pdf(source).read_bytes()
    assert pdf.compile_pdf(source).read_bytes() == first


@needs_tex
def test_a_broken_source_is_a_clear_error(tmp_path: Path) -> None:
    source = tmp_path / "broken.tex"
    source.write_text(r"\documentclass{article}\begin{document}\nosuchcommand\end{document}")
    with pytest.raises(UsageError, match=r"pdflatex stopped on .*broken\.tex: ! Undefined control sequence"):
        pdf.compile_pdf(source)
    assert not (tmp_path / "broken.pdf").exists()


def test_a_missing_pdflatex_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="pdflatex was not found; install TeX"):
        pdf.compile_pdf(tmp_path / "any.tex")


def test_no_text_becomes_a_command_in_latex(by_hand: Derivation) -> None:
    text = fragment(by_hand)
    assert r"\input{secret}" not in text
    assert r"\textbackslash{}input\{secret\}" in text
    assert "[U+1F600]" in text


def test_no_text_becomes_markup_in_html(by_hand: Derivation) -> None:
    text = html.page(document_blocks([by_hand]))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_no_text_becomes_markup_in_markdown(by_hand: Derivation) -> None:
    text = markdown.render(derivation_blocks(by_hand))
    for mark in ("<script", "[a](b)", "@all", "<!--"):
        assert re.search(r"(?<!\\)" + re.escape(mark), text) is None


def test_labels_hold_nothing_unusual() -> None:
    assert label("rms-norm>affine/self-factor") == "rms-norm>affine/self-factor"
    assert label(r"a}\b#%c d") == "a-b-c-d"


class Balanced(HTMLParser):
    """A parser that insists on closed tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_balanced_and_needs_nothing_else(chapters: list[Chapter], by_hand: Derivation) -> None:
    pytest.importorskip("latex2mathml", reason="formulas are shown as LaTeX without it")
    text = html.page(document_blocks([*chapters, by_hand]))
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert re.search(r"""(src|href)=["']?(https?:)?//""", text) is None
    assert "<script" not in text
    assert re.search(r"\\[a-zA-Z]+", re.sub(r"<p>.*?</p>|<h1>.*?</h1>|<h2>.*?</h2>|<td>.*?</td>", "", text)) is None


def test_mathml_is_well_formed_and_holds_every_equation(chapters: list[Chapter]) -> None:
    blocks = document_blocks(chapters)
    tree = ElementTree.fromstring(mathml.render(blocks))
    assert len(list(tree)) == sum(isinstance(block, Equation) for block in blocks)
    assert {element.get("id") for element in tree if element.get("id")} == {label(i) for i in equation_ids(blocks)}


def test_markdown_is_what_github_renders(chapters: list[Chapter]) -> None:
    text = markdown.render(document_blocks(chapters))
    fences = re.findall(r"^```(\w*)$", text, re.MULTILINE)
    assert fences[::2] == ["math"] * (len(fences) // 2)
    assert set(fences[1::2]) == {""}
    assert "$$" not in text
    assert r"\operatorname" not in text
    assert r"\label" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


def test_latex_of_other_things(full: Full) -> None:
    derivation = full("affine")
    assert latex(derivation.layer) == r"z_{s i} = W_{i} \cdot x_{s} + b_{i}"
    assert latex(derivation.self_factor.expression) == r"\lVert x_{s} \rVert^{2} + 1"
    assert r"\label{eq:affine/forward}" in latex(derivation.steps[0])
    assert derive.latex(derivation) == fragment(derivation) == derivation.latex()
    with pytest.raises(TypeError, match="no LaTeX for int"):
        latex(3)


def test_notebook_cells(full: Full) -> None:
    derivation = full("affine")
    for obj in (derivation, derivation.steps[0], derivation.solutions[0]):
        assert obj._repr_latex_().startswith(r"$$\begin{aligned}")
        assert r"\label" not in obj._repr_latex_()
        parser = Balanced()
        parser.feed(obj._repr_html_())
        assert parser.open == []


@needs_tex
def test_no_character_stops_pdflatex(tmp_path: Path) -> None:
    codes = (*range(1, 0x300), *range(0x370, 0x400), *range(0x2000, 0x2300), 0x4E2D, 0xD800, 0xFFFE, 0x1F600)
    words = " ".join(map(chr, codes))
    source = tmp_path / "characters.tex"
    source.write_text(latex_page([Heading(0, ("All",)), Heading(1, (words,)), Paragraph((words, Code(words)))]))
    assert "Missing character" not in pdf.run_pdflatex(source, tmp_path)


@needs_tex
@pytest.mark.slow
def test_the_notes_compile_and_nothing_sticks_out(root: Path, tmp_path: Path) -> None:
    log = pdf.run_pdflatex(root / "paper_notes" / "derivation.tex", tmp_path)
    assert [points for points in pdf.overfull_points(log) if points > OVERFULL_POINTS] == []
    assert "multiply defined" not in log
    assert "undefined on input" not in log
