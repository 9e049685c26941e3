"""Golden files: exported derivations, the table of layers and the paper notes equal the engine's current output.

``pytest tests/derive/export/test_golden.py --update -m ""`` rewrites them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import derive
from derive.export import markdown, summary
from derive.export.json_schema import derivation_to_json
from derive.export.latex import fragment, page
from derive.export.outline import Chapter, document_blocks
from derive.record import Derivation

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "export"
HOW = 'run `pytest tests/derive/export/test_golden.py --update -m ""` and read the difference before you commit it'


def compare(path: Path, text: str, update: bool) -> None:
    """Compare text with a golden file, or write it."""
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    kept = path.read_text(encoding="utf-8") if path.is_file() else ""
    difference = difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "derived", lineterm="", n=1)
    assert kept == text, "\n".join([*list(difference)[:60], f"{path.name} differs: {HOW}"])


@pytest.mark.parametrize("name", ["linear", "affine"])
def test_latex(full: Callable[[str], Derivation], update: bool, name: str) -> None:
    compare(GOLDEN / f"{name}.tex", fragment(full(name)), update)


@pytest.mark.parametrize("name", ["linear", "affine"])
def test_json(full: Callable[[str], Derivation], update: bool, name: str) -> None:
    compare(GOLDEN / f"{name}.json", json.dumps(without_trees(derivation_to_json(full(name))), indent=1) + "\n", update)


def without_trees(data: Any) -> Any:
    """The JSON without its trees, which the round-trip test covers."""
    if isinstance(data, dict):
        return {key: without_trees(value) for key, value in data.items() if key != "expression"}
    return [without_trees(value) for value in data] if isinstance(data, list) else data


def test_no_golden_file_is_left_over() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == ["affine.json", "affine.tex", "linear.json", "linear.tex"]


@pytest.mark.slow
def test_the_table_of_layers_is_what_is_derived(update: bool) -> None:
    layers = {name: derive.layer(name) for name in derive.layer_names()}
    compare(summary.TABLE, summary.table_text(summary.layer_rows(layers, kept={})), update)


def test_the_table_of_layers_covers_every_layer() -> None:
    kept = summary.kept_rows()
    for name in derive.layer_names():
        assert kept.get(name, {}).get("forward_map") == summary.digest(derive.layer(name)), f"{name} is stale: {HOW}"


@pytest.fixture(scope="module")
def chapters() -> list[Chapter]:
    return [summary.chapter(derive.layer(name), check=True) for name in summary.CHAPTERS]


@pytest.mark.slow
def test_the_notes_are_what_is_derived(root: Path, chapters: list[Chapter], update: bool) -> None:
    blocks = document_blocks(chapters)
    compare(root / "paper_notes" / "derivation.tex", page(blocks), update)
    compare(root / "paper_notes" / "derivation.md", markdown.render(blocks), update)


@pytest.mark.slow
def test_every_step_in_the_notes_holds(chapters: list[Chapter]) -> None:
    for chapter in chapters:
        derivations = (chapter.derivation, *chapter.under_rules)
        maps = [found for derivation in derivations for found in derivation.solutions]
        steps = [step for owner in (*derivations, *maps) for step in owner.steps]
        assert [step.id for step in steps if step.verdict.status.value not in ("proved", "sampled")] == []
