"""The examples and notebooks run, in a short form, and show what they promise."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SHOWN = {  # a pattern that a line of the output must match
    "nano_gpt": r"corrected: loss [\d.]+ at rate 0.1; .* worst layer 1\.00$",
    "patch_norm_resnet": r"PatchNorm: [\d.]+% right at rate .* first layer: 1\.00$",
    "own_layer_to_cuda": r"SharedAffineLike: 1\.00, 1\.00, 1\.00, 1\.00 times the ideal step$",
}
NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
LARGEST_NOTEBOOK = 20_000  # bytes: without outputs


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook; running them in this process saves a kernel, and the imports, for each notebook."""
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def test_every_example_is_tested_and_listed() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SHOWN)
    listed = set(re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    files = {path.relative_to(EXAMPLES).as_posix() for path in (*EXAMPLES.glob("*.py"), *NOTEBOOKS)}
    assert listed == files


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_hold_no_outputs(path: Path) -> None:
    assert path.stat().st_size < LARGEST_NOTEBOOK
    assert [cell["id"] for cell in cells(path) if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [name, "--quick"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert re.search(SHOWN[name], capsys.readouterr().out, flags=re.M)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("IPython", reason="IPython is not installed: the extra `docs` has it")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "notebook"}
    for cell in cells(path):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), names)
