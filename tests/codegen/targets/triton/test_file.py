"""The emitted files: the same text every time, equations on the lines that implement them, no formula in a template."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import derive
from codegen.catalogue import families, patch_maps
from codegen.compiler import render
from codegen.targets.triton.target import files
from tests.emitted import file_of, shared, shared_by, write_all

ROOT = Path(__file__).parents[4]
TEMPLATES = sorted((ROOT / "codegen" / "targets" / "triton" / "templates").glob("*.jinja"))
MAP_FILES = [
    file_of("triton", "affine_like.py"),
    file_of("triton", "norm_like.py"),
    file_of("triton", "norm_like_without_bias.py"),
]


@functools.cache
def chosen():
    return families(derive.solve(derive.layer("affine")), derive.solve(derive.layer("linear")))


@functools.cache
def emitted():
    return files(chosen())


def test_the_files_of_the_target():
    maps = [*MAP_FILES, *(file_of("triton", f"{m.module}.py") for m in patch_maps()), file_of("triton", "unit.py")]
    around = [file_of("triton", name) for name in ("__init__.py", "functional.py")]
    around += [shared_by("triton", name) for name in ("__init__.py", "tiles.py", "patches.py", "far_patches.py")]
    around += [shared(name) for name in ("__init__.py", "patch_places.py", "patch_operators.py", "operators.py")]
    assert sorted(emitted()) == sorted([*maps, *around])
    assert files(chosen()) == emitted()


def test_a_package_without_the_target_has_none_of_its_files():
    assert not [name for name in render(chosen(), "plain") if "triton" in name]
    assert set(emitted()) < set(render(chosen(), "both", ("torch", "triton")))


@pytest.mark.parametrize("position", range(len(MAP_FILES)), ids=MAP_FILES)
def test_header_and_equations(position):
    plan, text = [p for family in chosen() for p in family.plans][position], emitted()[MAP_FILES[position]]
    assert plan.digest in text.split('"""')[1]
    programs = (plan.scale, plan.forward, plan.backward.program)
    equations = {i.equation for program in programs for i in program.instructions} - {""}
    assert equations == {e for e in re.findall(r"# ([\w/-]+)$", text, flags=re.MULTILINE) if "/" in e}
    for line in text.splitlines():
        if re.search(r"# [\w-]+/", line) and not line.strip().startswith("#"):
            assert "=" in line.split("#")[0]


def test_lines_are_not_too_long():
    for name, text in emitted().items():
        assert [line for line in text.splitlines() if len(line) > 120 and "https" not in line] == [], name


@pytest.fixture
def made(tmp_path):
    """The emitted package on disk."""
    folder = tmp_path / "made"
    folder.mkdir()
    write_all(render(chosen(), "made", ("torch", "triton")), folder)
    return folder


def passes(*command, cwd):
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_emitted_code_passes_ruff(made):
    configuration = ["--config", str(ROOT / "pyproject.toml"), "--ignore", "I001", "--no-cache"]
    passes("ruff", "check", *configuration, *emitted(), cwd=made)


@pytest.mark.slow
def test_emitted_code_passes_mypy(made):
    options = ["--strict", "--no-incremental", "--cache-dir", str(made.parent), "--follow-imports", "silent"]
    passes("mypy", *options, *(f"made/{name}" for name in emitted()), cwd=made.parent)


# What a template must not type.
FORMULAS = [
    r"sqrt",
    r"kappa",
    r"tl\.sum",
    r"\bdot\(",
    r"[\w\])] / [\w(]",
    r"tl\.(exp|log|where|sin|cos)",
    r"\bf\b",
    r"\bu\b",
]


def without_holes(text):
    return re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\"\"\".*?\"\"\"|#.*", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_no_formula_is_typed_in_a_template(path):
    text = without_holes(path.read_text(encoding="utf-8"))
    allowed = {"function.jinja": {r"kappa"}}.get(path.name, set())
    assert {pattern for pattern in FORMULAS if re.search(pattern, text)} <= allowed


def test_the_patterns_find_a_planted_formula():
    planted = "f = tl.sqrt(kappa) / tl.exp(tl.sum(q))\nz = dot(u, w)"
    assert [pattern for pattern in FORMULAS if not re.search(pattern, planted)] == []


def test_the_public_functions_use_the_kernels():
    text = emitted()[file_of("triton", "functional.py")]
    homes = re.findall(r"^from \.(\w+) import .*Reverse", text, flags=re.MULTILINE)
    assert homes == sorted(Path(name).stem for name in MAP_FILES)
