"""The documentation is right: every block runs, every page is in the navigation, and the strict build succeeds."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import Block, blocks, run_page, run_python, with_affdiv

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose modules can be imported, forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def run(page: Path, folder: Path, quick: bool) -> None:
    environment = with_affdiv(folder / "bin", ROOT, os.environ)
    before = set(sys.modules)
    try:
        run_page(page, folder, environment, quick=quick)
    finally:
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]


@pages
def test_quick_blocks_run(page: Path, folder: Path) -> None:
    run(page, folder, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.slow for b in blocks(p))], ids=lambda p: p.stem)
def test_all_blocks_run(page: Path, folder: Path) -> None:
    run(page, folder, quick=False)


def test_a_block_that_prints_something_else_is_found() -> None:
    with pytest.raises(AssertionError):
        run_python("print(1)  # prints: 2", {})


def test_blocks_are_read_with_their_kinds(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('a\n<!-- slow -->\n```bash\nx\n```\n\n```toml title="m.toml"\ny\n```\n', encoding="utf-8")
    assert blocks(page) == [Block("bash", "", "x\n", True), Block("toml", "m.toml", "y\n", False)]


@pages
def test_links_lead_to_pages(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    local = [t for t in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose) if "://" not in t]
    lost = [t for t in local if not (page.parent / t).exists() and not re.search(r"notes/|command-line\.md", t)]
    assert lost == []


def test_every_schema_of_the_program_stands_in_the_reference() -> None:
    sources = [
        p.read_text(encoding="utf-8") for room in ("derive", "codegen", "verify") for p in (ROOT / room).rglob("*.py")
    ]
    names = {name for text in sources for name in re.findall(r'"(affdiv\.[a-z-]+/\d+)"', text)}
    told = (DOCS / "reference" / "schemas.md").read_text(encoding="utf-8")
    assert names and {name for name in names if name not in told} == set()


def test_the_site_shows_the_pictures_of_a_note_inside_its_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hooks = runpy.run_path(str(DOCS / "site_hooks.py"))
    (tmp_path / "notes" / "results").mkdir(parents=True)
    (tmp_path / "notes" / "results" / "a.svg").write_text(
        '<?xml?>\n<svg width="4">\n\n  <path d="M0 0"/>\n</svg>\n', "utf-8"
    )
    (tmp_path / "notes" / "n.md").write_text(
        "Before\n\n![of time](results/a.svg)\n\nAfter ![of dots](b.png)\n", "utf-8"
    )
    monkeypatch.setitem(hooks["note"].__globals__, "ROOT", tmp_path)
    shown = hooks["note"]("notes/n.md", "notes/n.md")
    assert (
        '\n\n<figure role="img" aria-label="of time"><svg width="4"> <path d="M0 0"/> </svg></figure>\n\n' in shown
    )  # a blank line would end the HTML element
    assert ".svg" not in shown and "b.png" in shown


def test_no_picture_of_a_note_is_lost_on_the_site() -> None:
    hooks = runpy.run_path(str(DOCS / "site_hooks.py"))
    pictures = 0
    for source, place in hooks["NOTES"].items():
        wanted = (ROOT / source).read_text(encoding="utf-8").count("![")
        assert hooks["note"](source, place).count("><svg ") == wanted, source
        pictures += wanted
    assert pictures > 0


@pytest.mark.slow
def test_the_figure_is_what_is_measured() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import self_factor as f; m = f.measured(5)\n"
    code += "print(*[[round(v, 3) for v in m[k][1]] for k in ('AffineLike', 'NormLike')])\n"
    code += "print(all(abs(v - r * r - 1) < 1e-9 for r, v, _ in zip(*m['Linear'])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(DOCS / "assets")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[:2] == ["[1.0, 1.0, 1.0, 1.0, 1.0] [2.0, 2.0, 2.0, 2.0, 2.0]", "True"], done.stderr
