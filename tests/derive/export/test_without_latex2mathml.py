"""Without latex2mathml, documents show formulas as LaTeX, and nothing fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[3]
HIDDEN = """
import sys
sys.modules["latex2mathml"] = sys.modules["latex2mathml.converter"] = None  # importing these now raises ImportError
import affdiv
sys.exit(affdiv.run(sys.argv[1:]))
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HIDDEN, *words], cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("kind", ["mathml", "html"])
def test_documents_show_latex_as_text(kind, tmp_path):
    done = run("latex", "affine", "-o", str(tmp_path / "affine"), "--format", kind)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    written = (tmp_path / "affine").read_text(encoding="utf-8")
    assert "<mtext>" in written and r"\frac" in written


def test_a_formula_is_one_element_in_either_layout():
    code = HIDDEN.split("import affdiv")[0] + (
        "from derive.export.mathml import formula\nprint(formula(r'a < b & c'), formula('x', display=True), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    inline, block = map(ElementTree.fromstring, done.stdout.splitlines())
    assert (inline.get("display"), block.get("display")) == ("inline", "block")
    assert "".join(inline.itertext()) == "a < b & c"
