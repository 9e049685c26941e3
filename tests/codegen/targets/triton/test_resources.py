"""What Triton's own compiler makes of the kernels for GPUs that need not be there: registers, spills, shared memory.

The limits stand in codegen/targets/triton/README.md. Products in 16 bits must reach the matrix instructions of each
GPU; pointers, not descriptors, are what the kernels load by, so there is no TMA to be seen.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")

from triton.backends.compiler import GPUTarget  # noqa: E402

from affine_divergence.kernels.triton import affine_like, patch_affine_like, unit  # noqa: E402
from affine_divergence.kernels.triton.runtime import patches, tiles  # noqa: E402
from affine_divergence.runtime.patch_places import as_numbers  # noqa: E402
from affine_divergence.runtime.patches import Geometry  # noqa: E402
from tests.codegen.targets.triton.test_compiled import OPTIONS, launch_all, source  # noqa: E402

pytestmark = pytest.mark.slow

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
SHAPES = [(8192, 4096, 4096), (4096, 512, 512)]
SPILLED = {"cuda": 16, "hip": 256}  # bytes a thread
REGISTERS = {"cuda": 255, "hip": 256}
PRODUCTS = {"forward_kernel", "gradient_product_kernel", "weight_gradient_kernel"}  # tiles of matrices alone


@dataclass(frozen=True)
class Gpu:
    """A GPU: how Triton names it, what it holds, and the instruction that multiplies matrices of 16 bits."""

    target: GPUTarget
    limits: tiles.Limits
    product: str


GPUS = {
    "sm_80": Gpu(GPUTarget("cuda", 80, 32), tiles.Limits(108, 163 << 10, 40 << 20), r"mma\.sync\.aligned\.m16n8k16"),
    "sm_90": Gpu(GPUTarget("cuda", 90, 32), tiles.Limits(132, 227 << 10, 50 << 20), r"wgmma\.mma_async"),
    "sm_100": Gpu(GPUTarget("cuda", 100, 32), tiles.Limits(148, 227 << 10, 126 << 20), r"tcgen05\.mma"),
    "gfx942": Gpu(GPUTarget("hip", "gfx942", 64), tiles.Limits(304, 64 << 10, 256 << 20), r"v_mfma_f32\w*_(bf|f)16"),
}


@dataclass(frozen=True)
class Made:
    """A compiled kernel: bytes of shared memory a block, registers and bytes spilled a thread, and its assembly."""

    name: str
    shared: int
    registers: int
    spilled: int
    text: str


def nvidia(made, folder: Path) -> tuple[int, int, str]:
    """Return registers, bytes of the stack, and PTX: what is spilled lies on the stack."""
    file = folder / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    said = subprocess.run([TOOL, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found, said
    return int(found[1]), int(found[2]), made.asm["ptx"]


def amd(made) -> tuple[int, int, str]:
    """Return vector registers, bytes spilled, and assembly."""
    text = made.asm["amdgcn"]
    registers, vectors, scalars = (
        int(re.search(rf"\.{word}:\s+(\d+)", text)[1])
        for word in ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count")
    )
    return registers, 4 * (vectors + scalars), text


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Compile what is launched for a GPU instead of launching it; return the kernels as they are made."""
    sizes = (tiles.product_tiles, tiles.whole_row_tiles, tiles.slab)

    def on(gpu: Gpu) -> list[Made]:
        found: list[Made] = []

        def launch(kernel, grid):
            def compile_it(*arguments, **settings):
                options = {name: settings.pop(name) for name in OPTIONS}
                if gpu.target.backend == "hip":
                    del options["enable_fp_fusion"]  # which that compiler decides
                made = triton.compile(source(kernel, arguments, settings), target=gpu.target, options=options)
                read = amd(made) if gpu.target.backend == "hip" else nvidia(made, tmp_path)
                found.append(Made(kernel.__name__, made.metadata.shared, *read))

            return compile_it

        monkeypatch.setattr(triton.JITFunction, "__getitem__", launch)
        monkeypatch.setattr(tiles, "limits", lambda device: gpu.limits)
        for function in sizes:
            function.cache_clear()
        return found

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for module in (affine_like, unit, patches):
        monkeypatch.setattr(module, "on", lambda x: contextlib.nullcontext())
    monkeypatch.setattr(patches, "has_values", lambda x: True)
    yield on
    for function in sizes:
        function.cache_clear()


def launch_patches(dtype):
    """Run both passes of PatchNorm on tensors without memory."""
    shapes = ((4, 1, 64, 9, 9), (1, 32, 64, 3, 3), (1, 32, 1, 1), (4, 1, 32, 5, 5))
    x, W, b, g = (torch.empty(s, dtype=dtype, device="meta") for s in shapes)
    numbers = as_numbers(Geometry((3, 3), (2, 2), (1, 1), (1, 1), (0, 0)))
    _, f, _ = patch_affine_like.forward(x, W, b, 1.7, numbers, True)
    patch_affine_like.backward(g, x, W, b, f, None, 1.7, numbers, [True] * 3)


def launch_unit(dtype):
    """Run both passes of the unit lengths of queries and keys on tensors without memory."""
    q, k, g = (torch.empty(4, 16, 128, 64, dtype=dtype, device="meta") for _ in range(3))
    u_q, f_q, u_k, f_k = unit.forward(q, k)
    unit.backward(g, u_q, f_q, g, u_k, f_k, [True, True])


def hold(found: list[Made], gpu: Gpu):
    """Hold kernels to the limits."""
    assert found
    for made in found:
        told = f"{made.name}: {made.registers} registers, {made.spilled} bytes spilled, {made.shared} bytes shared"
        assert made.registers <= REGISTERS[gpu.target.backend], told
        assert made.spilled <= SPILLED[gpu.target.backend], told
        assert made.shared <= gpu.limits.shared, told


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", GPUS)
def test_rows_stay_within_registers_and_reach_the_matrix_instructions(compiled, name, dtype):
    gpu = GPUS[name]
    found = compiled(gpu)
    for shape in SHAPES:
        launch_all(affine_like, dtype, shape)
    hold(found, gpu)
    products = [made for made in found if made.name in PRODUCTS]
    assert {made.name for made in products} == PRODUCTS
    if dtype == torch.bfloat16:
        assert all(re.search(gpu.product, made.text) for made in products)


@pytest.mark.parametrize("name", GPUS)
def test_patches_and_unit_rows_stay_within_registers(compiled, name):
    gpu = GPUS[name]
    found = compiled(gpu)
    launch_patches(torch.bfloat16)
    launch_unit(torch.bfloat16)
    hold(found, gpu)


def test_a_kernel_that_spills_is_noticed(compiled, monkeypatch):
    """The slice of 32 samples that float32 had before does not fit."""
    gpu = GPUS["sm_90"]
    found = compiled(gpu)
    thick = tiles.product_tiles.__wrapped__

    def as_before(*given):
        return thick(*given)._replace(inside=32)

    monkeypatch.setattr(affine_like, "product_tiles", as_before)
    launch_all(affine_like, torch.float32, SHAPES[0])
    with pytest.raises(AssertionError, match=r"weight_gradient_kernel: 255 registers, [0-9]{3} bytes spilled"):
        hold(found, gpu)
