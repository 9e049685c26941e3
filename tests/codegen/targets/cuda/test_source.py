"""The text of the source files: header, equations on their lines, determinism, and a user's angle function."""

import ast
import re
from pathlib import Path

import pytest
import sympy

from codegen.catalogue import families, patch_maps
from codegen.ir.program import Pointwise
from codegen.lower.gathering import lower
from codegen.passes.ranges import range_safe
from codegen.printing.launches import printed
from codegen.targets.cuda import target as cuda_target
from derive.cancel import solve
from derive.layers import layer
from derive.properties import r
from tests.codegen.targets.cuda.conftest import chosen
from tests.emitted import file_of, shared_by

ROOT = Path(__file__).parents[4]
TARGET = ROOT / "codegen/targets/cuda"
TEMPLATES = sorted([*TARGET.glob("templates/*.jinja"), *TARGET.glob("runtime/*.*")])
PLANS = {plan.layer.name: plan for family in chosen() for plan in family.plans}
SOURCES = {
    "affine-like": file_of("cuda", "affine_like.cu"),
    "norm-like": file_of("cuda", "norm_like.cu"),
    "linear/norm-like": file_of("cuda", "norm_like_without_bias.cu"),
}


def test_the_files(texts):
    names = {name for name in texts if "cuda" in name}
    expected = {file_of("cuda", name) for name in ("__init__.py", "functional.py")}
    expected |= {shared_by("cuda", f"{part}.py") for part in ("__init__", "compile", "launch", "patches")}
    expected |= {shared_by("cuda", "rows.cuh"), shared_by("cuda", "patches.cuh")}
    maps = {*SOURCES.values(), file_of("cuda", "unit.cu"), *(file_of("cuda", f"{m.module}.cu") for m in patch_maps())}
    assert names == expected | maps | {name.replace(".cu", ".py") for name in maps}


@pytest.mark.parametrize("name", SOURCES)
def test_the_header_names_the_map_and_the_digest_of_its_derivation(texts, name):
    plan = PLANS[name]
    for text in (texts[SOURCES[name]], texts[SOURCES[name].replace(".cu", ".py")]):
        assert f"Derivation (SHA-256 of the map): {plan.digest}" in text
        assert "z[s,i] = " in text


@pytest.mark.parametrize("name", SOURCES)
def test_equations_stand_on_the_lines_that_implement_them(texts, name):
    lines = texts[SOURCES[name]].splitlines() + texts[SOURCES[name].replace(".cu", ".py")].splitlines()
    noted = {(line.split()[0], re.split(r"(?://|#) ", line)[1]) for line in lines if f" {name}/" in line}
    plan = PLANS[name]
    programs = (plan.scale, plan.forward, plan.backward.program)
    wanted = {i.equation for p in programs for i in p.instructions if i.equation}
    assert wanted <= {equation for _, equation in noted}
    assert ("dx[k]", f"{name}/backward-dx") in noted and ("z[k]", f"{name}/forward") in noted
    assert ("q", f"{name}/define-E") in noted


def test_no_torch_and_no_headers_but_our_own_in_the_sources(texts):
    for name, text in texts.items():
        if name.endswith((".cu", ".cuh")) and "patch" not in name:
            assert re.findall(r"#include .*", text) in ([], ['#include "runtime/rows.cuh"'])
            assert "torch" not in text and "atomic" not in re.sub("No atomics", "", text)


def test_what_is_needed_on_demand_is_not_imported_at_the_top(texts):
    for name, text in texts.items():
        if name.startswith("kernels/cuda/") and name.endswith(".py"):
            imported = {
                a.name.split(".")[0] for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names
            }
            assert not imported & {"cuda", "filelock", "fcntl", "numpy", "derive", "codegen"}


FORMULAS = [r"sqrt\(", r"kappa\w*\s*[-+*/]", r"[-+*/]\s*kappa", r"\+\s*Wide\(?1", r"[a-zA-Z)\]]\s@\s", r"\bfma\b"]
ALLOWED = {"launch.py": {r"[a-zA-Z)\]]\s@\s"}}  # the product of any two matrices


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_no_formula_is_typed_in_a_template(path):
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", "", path.read_text(), flags=re.S)
    assert not {p for p in FORMULAS if re.search(p, text)} - ALLOWED.get(path.name, set())


ANGLES = {
    "tanh(r)": (sympy.tanh(r), ["sin(tanh(", "cos(tanh("]),
    "atan(2 r)": (sympy.atan(2 * r), ["4 * q + Wide(1) / (peak * peak)", "2 * sqrt(kappa)"]),
    "exp": (sympy.exp(-r), ["exp(-"]),
}


@pytest.mark.parametrize("name", ANGLES)
def test_an_angle_function_reaches_the_kernel(name):
    """Both scales of the family's member at that angle, as printed for a row."""
    angle, expected = ANGLES[name]
    program = lower(solve(layer("affine"), angle)["angle"].mapped)
    scales = [i.target.name for i in program.instructions if isinstance(i, Pointwise)][:2]
    texts = [cuda_text(range_safe(program, scale)) for scale in scales]
    assert all(any(part in text for text in texts) for part in expected), texts


def cuda_text(program):
    kernels = printed(program, "angle", "x").kernels
    return cuda_target.render(
        "kernels.cu.jinja",
        {"title": "", "formula": "", "definitions": [], "digest": "", "kernels": [k.context for k in kernels]},
    )


def test_a_map_with_a_constant_angle_is_printed_whole(tmp_path):
    made = families([solve(layer("affine"), sympy.pi / 3)["angle"]], [])
    texts = cuda_target.files(made)
    assert "Wide(1.7320508075688772) * sqrt(kappa)" in texts[file_of("cuda", "angle.cu")]
    assert "math.sqrt(kappa)" in texts[file_of("cuda", "angle.py")]
    assert "\nimport math\n" in texts[file_of("cuda", "angle.py")]
