"""Resources of the kernels as compiled by Triton for several GPUs: registers, spills, shared memory.

codegen/targets/triton/README.md states the limits. 16-bit products must use the matrix instructions of each GPU. The
kernels load through pointers, not descriptors, so they use no TMA.
"""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")

from affine_divergence.kernels.triton import affine_like, patch_affine_like, unit
from affine_divergence.kernels.triton.runtime import tiles
from affine_divergence.runtime.patch_places import as_numbers
from affine_divergence.runtime.patches import Geometry
from tests.codegen.targets.triton.compile_ahead import GPUS, Gpu, Made, compiling, launch_all

pytestmark = pytest.mark.slow

SHAPES = [(8192, 4096, 4096), (4096, 512, 512)]
SPILLED = {"cuda": 16, "hip": 264}  # bytes per thread
REGISTERS = {"cuda": 255, "hip": 256}
NAMES = [name for name in GPUS if name != "sm_86"]  # sm_86 has the instructions of sm_80
PRODUCTS = {"forward_kernel", "gradient_product_kernel", "weight_gradient_kernel"}  # kernels of matrix products


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    with compiling(monkeypatch, tmp_path) as on:
        yield on


def launch_patches(dtype):
    """Run both passes of PatchNorm on tensors without memory."""
    shapes = ((4, 1, 64, 9, 9), (1, 32, 64, 3, 3), (1, 32, 1, 1), (4, 1, 32, 5, 5))
    x, W, b, g = (torch.empty(s, dtype=dtype, device="meta") for s in shapes)
    numbers = as_numbers(Geometry((3, 3), (2, 2), (1, 1), (1, 1), (0, 0)))
    _, f, _ = patch_affine_like.forward(x, W, b, 1.7, numbers, True)
    patch_affine_like.backward(g, x, W, b, f, None, 1.7, numbers, [True] * 3)


def launch_unit(dtype):
    """Run both passes of unit rows on tensors without memory."""
    q, k, g = (torch.empty(4, 16, 128, 64, dtype=dtype, device="meta") for _ in range(3))
    u_q, f_q, u_k, f_k = unit.forward(q, k)
    unit.backward(g, u_q, f_q, g, u_k, f_k, [True, True])


def hold(found: list[Made], gpu: Gpu):
    """Check kernels against the limits."""
    assert found
    for made in found:
        told = f"{made.name}: {made.registers} registers, {made.spilled} bytes spilled, {made.shared} bytes shared"
        assert made.registers <= REGISTERS[gpu.target.backend], told
        assert made.spilled <= SPILLED[gpu.target.backend], told
        assert made.shared <= gpu.limits.shared, told


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_patches_and_unit_rows_stay_within_registers(compiled, name):
    gpu = GPUS[name]
    found = compiled(gpu)
    launch_patches(torch.bfloat16)
    launch_unit(torch.bfloat16)
    hold(found, gpu)


def test_a_kernel_that_spills_is_noticed(compiled, monkeypatch):
    """A slice of 32 samples in float32 does not fit the registers."""
    gpu = GPUS["sm_90"]
    found = compiled(gpu)
    thick = tiles.product_tiles.__wrapped__

    def as_before(*given):
        return thick(*given)._replace(inside=32)

    monkeypatch.setattr(affine_like, "product_tiles", as_before)
    launch_all(affine_like, torch.float32, SHAPES[0])
    with pytest.raises(AssertionError, match=r"weight_gradient_kernel: 255 registers, [0-9]{3} bytes spilled"):
        hold(found, gpu)
