"""Every kernel compiled for the devices without warnings or spills, with few registers and little shared memory."""

import functools
import importlib
import itertools
import re
import shutil
import subprocess

import pytest

from codegen.plans.angles import angle_plan
from codegen.plans.solve_at import solve_at
from codegen.printing.naming import AngleFamily
from codegen.targets.cuda import target as cuda_target
from derive.formula import parse_angle
from derive.layers import layer
from tests.emitted import file_of, shared_by, write_all

ARCHITECTURES = ["sm_80", "sm_90"]
ELEMENTS = ["float", "double", "Half", "Bfloat"]
MOST_REGISTERS = 64  # for four blocks of 256 threads per multiprocessor
MOST_SHARED = 8192
MOST_FRAME = 64  # bytes of a thread's stack

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, the compiler for a GPU")


@functools.cache
def report(source, element, architecture):
    """Compile, warnings as errors, and return for every kernel its registers, spills, stack and shared memory."""
    command = ["nvcc", "-std=c++17", f"-arch={architecture}", "--Werror", "all-warnings", "-Xptxas", "-v"]
    command += [f"-DELEMENT={element}", "-cubin", "-o", "/dev/null", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kernels = {}
    for part in done.stderr.split("Compiling entry function ")[1:]:
        name = re.match(r"'(\w+)'", part)[1]
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        shared = re.search(r"(\d+) bytes smem", part)
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        kernels[name] = (registers, [int(n) for n in frame.groups()], int(shared[1]) if shared else 0)
    return kernels


SELDOM = [pytest.mark.slow]
CASES = [("affine_like", e, a) for e in ELEMENTS for a in ARCHITECTURES]
CASES += [
    (n, e, a)
    for n in ("norm_like", "norm_like_without_bias")
    for e, a in zip(ELEMENTS[::2], ARCHITECTURES, strict=True)
]


@needs_nvcc
@pytest.mark.parametrize(
    ("name", "element", "architecture"),
    [pytest.param(*c, marks=[] if c in (CASES[1], CASES[6]) else SELDOM, id="-".join(c)) for c in CASES],
)
def test_nvcc_has_nothing_to_say(folder, name, element, architecture):
    source = folder / file_of("cuda", f"{name}.cu")
    kernels = report(source, element, architecture)
    assert set(kernels) == set(re.findall(r"__global__ void (\w+)\(", source.read_text()))
    for kernel, (registers, spills, shared) in kernels.items():
        assert spills == [0, 0, 0], f"{kernel}: stack frame, spill stores, spill loads"
        assert registers <= MOST_REGISTERS and shared <= MOST_SHARED, f"{kernel}: {registers}, {shared}"


OFTEN = {("sm_80", "float"), ("sm_90", "Bfloat")}
DEVICES = [
    pytest.param(a, e, marks=[] if (a, e) in OFTEN else SELDOM) for a, e in itertools.product(ARCHITECTURES, ELEMENTS)
]


@needs_nvcc
@pytest.mark.parametrize(("architecture", "element"), DEVICES)
def test_kernels_of_rows_at_unit_length(folder, element, architecture):
    kernels = report(folder / file_of("cuda", "unit.cu"), element, architecture)
    assert set(kernels) == {"unit_forward", "unit_backward"}
    for kernel, (registers, spills, shared) in kernels.items():
        assert spills == [0, 0, 0], f"{kernel}: stack frame, spill stores, spill loads"
        assert registers <= MOST_REGISTERS and shared <= MOST_SHARED, f"{kernel}: {registers}, {shared}"


@needs_nvcc
@pytest.mark.slow
def test_the_map_at_an_angle_that_a_user_gives(tmp_path):
    """The reduction of large arguments of sine and cosine keeps a few numbers in a stack frame; nothing is spilled."""
    plan = angle_plan(solve_at(layer("affine"), parse_angle("2*atan(r) + tanh(r/n)"))["angle"])
    write_all(cuda_target.files([], [AngleFamily(plan)]), tmp_path)
    source = tmp_path / file_of("cuda", "angle_like.cu")
    kernels = report(source, "float", "sm_90")
    assert set(kernels) == set(re.findall(r"__global__ void (\w+)\(", source.read_text()))
    for kernel, (registers, (frame, *spills), shared) in kernels.items():
        assert spills == [0, 0] and frame <= MOST_FRAME, f"{kernel}: {frame}, {spills}"
        assert registers <= MOST_REGISTERS and shared <= MOST_SHARED, f"{kernel}: {registers}, {shared}"


@needs_nvcc
def test_rows_move_in_chunks_of_sixteen_bytes(folder, tmp_path):
    for element, kind in (("float", "f32"), ("Bfloat", "u32")):
        text = tmp_path / "kernels.ptx"
        source = folder / file_of("cuda", "affine_like.cu")
        command = ["nvcc", "-std=c++17", "-arch=sm_90", f"-DELEMENT={element}", "-ptx", "-o", str(text), str(source)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        kernels = dict(re.findall(r"\.entry (\w+)\((.*?)\n}", text.read_text(), flags=re.S))
        assert f"ld.global.v4.{kind}" in kernels["affine_like_f"]
        assert f"st.global.v4.{kind}" in kernels["affine_like_z"]


@needs_nvcc
def test_a_warning_is_found(folder, tmp_path):
    (tmp_path / "runtime").mkdir()
    shutil.copy(folder / shared_by("cuda", "rows.cuh"), tmp_path / "runtime")
    text = (folder / file_of("cuda", "affine_like.cu")).read_text().replace("Wide q = 0;", "Wide q = 0, unused;", 1)
    (tmp_path / "damaged.cu").write_text(text)
    with pytest.raises(AssertionError, match="unused"):
        report(tmp_path / "damaged.cu", "float", "sm_90")


def has_nvrtc():
    """Whether cuda.core is installed with its compiler."""
    try:
        importlib.import_module("cuda.core")
        return bool(importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion())
    except Exception:  # cuda.core or its library raises various errors
        return False


@pytest.mark.skipif(not has_nvrtc(), reason="needs cuda.core and NVRTC, the compiler for a GPU")
@pytest.mark.parametrize("element", ELEMENTS)
def test_nvrtc_compiles_what_nvcc_compiles(host, folder, element, tmp_path, monkeypatch):
    """As on a user's machine: no headers, no compiler but NVRTC. Kernels alternate between architectures."""
    monkeypatch.setenv("AFFINE_DIVERGENCE_CACHE", str(tmp_path / "cache"))
    host.compile.binary.cache_clear()
    kernels = {name: f"{name}_dx" for name in ("affine_like", "norm_like", "norm_like_without_bias")}
    kernels["patch_affine_like"] = "patch_affine_like_dx"  # its header includes another
    kernels["unit"] = "unit_backward"
    turns = {name: ARCHITECTURES[(k + ELEMENTS.index(element)) % 2] for k, name in enumerate(kernels)}
    for name, kernel in kernels.items():
        code = host.compile.binary(folder / file_of("cuda", f"{name}.cu"), element, turns[name])
        assert code.startswith(b"\x7fELF") and kernel.encode() in code
    kept = list((tmp_path / "cache").glob("*.cubin"))
    assert len(kept) == 5
    host.compile.binary.cache_clear()
    monkeypatch.setattr(host.compile, "_compile", None)
    assert host.compile.binary(folder / file_of("cuda", "affine_like.cu"), element, turns["affine_like"])
