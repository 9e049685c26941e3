"""The evaluation shares only the expression nodes with the deriver."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "derive" / "evaluation"
NODES = {f"derive.algebra.{name}" for name in ("index", "nodes", "named", "reductions")}
SHARED = {"derive", "derive.versions", "derive.algebra", *NODES}
DATA = {"derive.forward_map", "derive.record"}  # records, imported for type checkers only
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", MODULES)
def test_no_module_of_the_deriver_is_named(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    typed = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    inside = {id(n) for block in typed for n in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("derive"):
            own = (node.module or "").startswith("derive.evaluation.")
            assert own or node.module in SHARED or (id(node) in inside and node.module in DATA), node.module
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("derive") for alias in node.names)


def test_loading_it_loads_nothing_of_the_deriver() -> None:
    names = ", ".join(f"derive.evaluation.{module}" for module in MODULES)
    code = f"import sys, {names}; print(*(m for m in sys.modules if m.split('.')[0] == 'derive'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    loaded = {name for name in done.stdout.split() if not name.startswith("derive.evaluation")}
    assert loaded == SHARED, done.stderr


def test_no_derivative_of_sympy_is_asked() -> None:
    """The package has its own derivatives of functions."""
    for path in PACKAGE.glob("*.py"):
        called = {
            n.func.attr
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
        }
        assert not called & {"diff", "fdiff", "doit", "simplify", "series", "limit", "expand", "subs"}, path
