"""The emitted files of PatchNorm on CUDA: equations, changed mathematics, and every kernel compiled for the devices."""

import dataclasses
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import sympy
import torch

import affine_divergence
from codegen.catalogue import patch_maps
from codegen.plans.patch_maps import PatchMap
from codegen.plans.patches import patch_plan
from codegen.targets.cuda import target as cuda_target
from codegen.targets.cuda.patch_file import patch_map_context
from derive.cancel import solve
from derive.forward_map import Definition
from derive.layers.convolution import convolution
from tests.codegen.targets.cuda.host import needs_compiler
from tests.codegen.targets.cuda.test_compile import needs_nvcc, report
from tests.codegen.targets.patch_problem import KAPPA, error
from tests.emitted import file_of, shared_by
from verify.cuda_on_host import Host

HERE = Path(affine_divergence.__file__).parent
MODULES = sorted(path.stem for path in HERE.glob("kernels/cuda/patch*.cu"))
MOST_REGISTERS = 96  # for five blocks of 128 threads per multiprocessor


@cache
def maps():
    return {m.module: m for m in patch_maps()}


def test_every_map_has_kernels():
    assert sorted(maps()) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_header_and_equations(module):
    plan = maps()[module].plan
    python, kernels = ((HERE / file_of("cuda", f"{module}{end}")).read_text() for end in (".py", ".cu"))
    for text in (python, kernels):
        assert f"Derivation (SHA-256 of the map): {plan.digest}" in text and "z[s,g,o," in text
    programs = (plan.scale, plan.forward, plan.backward)
    wanted = {i.equation for p in programs for i in p.instructions if i.equation}
    noted = {
        e.strip() for line in re.findall(r"(?://|#) ([\w/, -]+)$", python + kernels, re.M) for e in line.split(",")
    }
    assert wanted <= noted
    assert re.search(rf"\bdx = .*// {plan.layer.name}/backward-dx", kernels)


def test_no_headers_but_our_own_and_no_atomics():
    for path in (*HERE.glob("kernels/cuda/patch*.cu"), HERE / shared_by("cuda", "patches.cuh")):
        text = path.read_text()
        header = "rows.cuh" if path.suffix == ".cuh" else "runtime/patches.cuh"
        assert re.findall(r"#include .*", text) == [f'#include "{header}"']
        assert "torch" not in text.replace("Convolutions are not done here", "")
        assert "atomic" not in re.sub("No atomics", "", text)


def together(folder, modules):
    """Return one source with the kernels of several maps."""
    for name in (shared_by("cuda", "patches.cuh"), shared_by("cuda", "rows.cuh")):
        shutil.copy(HERE / name, folder)
    include = '#include "runtime/patches.cuh"\n'
    texts = [(HERE / file_of("cuda", f"{module}.cu")).read_text().replace(include, "") for module in modules]
    (folder / "all.cu").write_text('#include "patches.cuh"\n' + "".join(texts))
    return folder / "all.cu"


def compiles(folder, modules, element, architecture):
    source = together(folder, modules)
    kernels = report(source, element, architecture)
    assert set(kernels) == set(re.findall(r"__global__ void (\w+)\(", source.read_text()))
    for kernel, (registers, spills, shared) in kernels.items():
        assert spills == [0, 0, 0] and shared == 0, f"{kernel}: stack frame, spill stores, spill loads; shared memory"
        assert registers <= MOST_REGISTERS, f"{kernel}: {registers}"
    return kernels


@needs_nvcc
@pytest.mark.parametrize("target", [("Bfloat", "sm_90")], ids=str)
def test_nvcc_has_nothing_to_say_of_the_centred_map(tmp_path, target):
    assert len(compiles(tmp_path, ["patch_affine_like_centred"], *target)) == 8


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("target", [("float", "sm_90"), ("double", "sm_80"), ("Half", "sm_80"), ("Bfloat", "sm_90")])
def test_nvcc_has_nothing_to_say_of_any_map(tmp_path, target):
    assert len(compiles(tmp_path, MODULES, *target)) >= 5 * len(MODULES)


@needs_nvcc
@pytest.mark.slow
def test_channels_side_by_side_move_in_chunks_of_sixteen_bytes(tmp_path):
    source = together(tmp_path, ["patch_affine_like"])
    text = tmp_path / "kernels.ptx"
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "-DELEMENT=Bfloat", "-ptx", "-o", str(text), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    kernels = dict(re.findall(r"\.entry (\w+)\((.*?)\n}", text.read_text(), flags=re.S))
    chunk = r"{}\.global\.v4\.(u|b)32"
    assert re.search(chunk.format("ld"), kernels["patch_affine_like_xx"])
    assert re.search(chunk.format("st"), kernels["patch_affine_like_f_z"])


def solution():
    return solve(convolution(2, grouped=True, name="grouped-convolution"))["affine-like"]


def five(expression):
    (energy,) = expression.atoms(sympy.Indexed)
    return expression.subs(energy, energy + 4)


def scaled(change):
    """Return the map with another scale, changed from the derived one."""
    layer = solution().mapped
    definitions = [
        Definition(d.name, d.indices, change(d.expression)) if d.name == "f" else d for d in layer.definitions
    ]
    return dataclasses.replace(solution(), mapped=dataclasses.replace(layer, definitions=tuple(definitions)))


OTHER = {
    "as derived": (solution, lambda u, rest: u / (rest + 1).sqrt()),
    "other constant": (lambda: scaled(five), lambda u, rest: u / (rest + 5).sqrt()),
    "other scale": (lambda: scaled(lambda e: 3 * e), lambda u, rest: 3 * u / (rest + 1).sqrt()),
}


@needs_compiler
@pytest.mark.parametrize("change", [pytest.param(n, marks=[pytest.mark.slow] * (n != "other constant")) for n in OTHER])
def test_kernels_follow_the_mathematics(change):
    """The text of a changed map replaces the emitted one; with weights of one the reference is three lines."""
    make, twin = OTHER[change]
    context = patch_map_context(PatchMap(patch_plan(make()), True))
    emitted = (HERE / file_of("cuda", context["source"])).read_text()
    text = cuda_target.render("patch_kernels.cu.jinja", context)
    assert (text == emitted) == (change == "as derived")
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    W, b = torch.ones(1, 3, 2, dtype=torch.float64), torch.full((1,), 0.25, dtype=torch.float64)
    with Host() as host:
        host.replacements = ((emitted, text),)
        z = affine_divergence.functional.patch_norm_conv1d(x, W, b, kappa=KAPPA, backend="cuda")
        g = torch.randn_like(z)
        found = (z, *torch.autograd.grad(z, x, g))
    pairs = x.unfold(2, 2, 1)
    total, energy = pairs.sum((1, 3)), pairs.square().sum((1, 3))
    expected = (KAPPA**0.5 * twin(total + 0.25, energy)).unsqueeze(1)
    for ours, right in zip(found, (expected, *torch.autograd.grad(expected, x, g)), strict=True):
        assert error(ours.detach(), right.detach()) < 1e-13
