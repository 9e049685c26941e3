"""Every kernel compiles to machine code for several GPUs, without having one, and its tiles fit shared memory."""

import inspect
import re

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")

from affine_divergence.kernels.triton import (
    affine_like,
    norm_like,
    norm_like_without_bias,
    patch_affine_like,
    patch_affine_like_centred,
    unit,
)
from affine_divergence.kernels.triton.runtime import far_patches, tiles
from affine_divergence.runtime.patch_places import as_numbers
from affine_divergence.runtime.patches import Geometry
from tests.codegen.targets.triton.compile_ahead import GPUS, compiling, launch_all

SHAPES = [(8192, 4096, 4096), (65536, 256, 256), (4096, 512, 512), (1000, 30, 2000)]
KERNELS = {
    "scale_kernel",
    "forward_kernel",
    "forward_rows_kernel",
    "gradient_rows_kernel",
    "gradient_product_kernel",
    "input_gradient_kernel",
    "input_gradient_rows_kernel",
    "weight_gradient_kernel",
}


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    with compiling(monkeypatch, tmp_path) as on:
        yield on


def check(build, gpu, module, dtype, shapes):
    found = build(GPUS[gpu])
    for shape in shapes:
        launch_all(module, dtype, shape)
    assert all(made.shared <= GPUS[gpu].limits.shared for made in found), found
    return {made.name for made in found}


def test_kernels_compile_for_the_newest_gpu(compiled):
    assert check(compiled, "sm_90", affine_like, torch.bfloat16, SHAPES[:2]) == KERNELS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpu", "dtype"), [("sm_80", torch.float16), ("sm_86", torch.bfloat16), ("sm_90", torch.float64)], ids=str
)
def test_kernels_compile_for_every_gpu_and_type(compiled, gpu, dtype):
    assert check(compiled, gpu, affine_like, dtype, SHAPES) == KERNELS


@pytest.mark.slow
@pytest.mark.parametrize("module", [norm_like, norm_like_without_bias], ids=lambda m: m.__name__)
def test_kernels_of_the_other_maps_compile(compiled, module):
    missing = KERNELS - check(compiled, "sm_90", module, torch.bfloat16, SHAPES)
    assert missing <= {"gradient_rows_kernel"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpu", "dtype"), [("sm_80", torch.float16), ("sm_90", torch.bfloat16), ("sm_90", torch.float64)], ids=str
)
def test_kernels_of_rows_at_unit_length_compile(compiled, gpu, dtype):
    """Queries and keys of a packed projection, with heads of a usual width and of the largest."""
    found = compiled(GPUS[gpu])
    for heads, width in ((16, 64), (1, unit._WIDEST)):
        packed = torch.empty(4, 128, 3 * heads * width, dtype=dtype, device="meta")
        q, k, g = (t.unflatten(-1, (heads, width)).transpose(1, 2) for t in packed.chunk(3, -1))
        u_q, f_q, u_k, f_k = unit.forward(q, k)
        for wanted in ([True, True], [False, True]):
            unit.backward(g, u_q, f_q, g, u_k, f_k, wanted)
    assert {made.name for made in found} == {"forward_kernel", "backward_kernel"}
    assert all(made.shared <= GPUS[gpu].limits.shared for made in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "gpu", "dtype"),
    [(patch_affine_like, "sm_90", torch.bfloat16), (patch_affine_like_centred, "sm_80", torch.float32)],
    ids=["plain", "centred"],
)
def test_kernels_of_convolutions_compile(compiled, module, gpu, dtype):
    """Every launch of PatchNorm on tensors without memory, forward and backward, the product kept or recomputed."""
    found = compiled(GPUS[gpu])
    shapes = ((4, 1, 64, 9, 9), (1, 32, 64, 3, 3), (1, 32, 1, 1), (4, 1, 32, 5, 5))
    x, W, b, g = (torch.empty(s, dtype=dtype, device="meta") for s in shapes)
    numbers = as_numbers(Geometry((3, 3), (2, 2), (1, 1), (1, 1), (0, 0)))
    for recompute in (True, False):
        _, f, h = module.forward(x, W, b, 1.7, numbers, recompute)
        module.backward(g, x, W, b, f, None if recompute else h, 1.7, numbers, [True] * 3)
    sources = inspect.getsource(module) + inspect.getsource(far_patches)  # both maps share the kernel of far images
    assert {made.name for made in found} == set(re.findall(r"def (\w+_kernel)\(", sources))
    assert all(made.shared <= GPUS[gpu].limits.shared for made in found)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", [*SHAPES, (128, 512, 512), (1, 1, 1), (65536, 64, 4096)], ids=str)
def test_tiles_follow_from_the_shape(gpu, shape, monkeypatch):
    """Tiles fit, slabs cover whole waves or all rows, and the parts of a sum cover it."""
    monkeypatch.setattr(tiles, "limits", lambda device: GPUS[gpu].limits)
    B, n, m = shape
    device = torch.device("meta")
    for itemsize in (2, 4, 8):
        tiles.product_tiles.cache_clear()
        tiles.slab.cache_clear()
        found = tiles.product_tiles(m, n, itemsize, device, B)
        assert all(size >= 16 and size & (size - 1) == 0 for size in found.sizes)
        tile_bytes = (found.down + found.across) * found.inside * itemsize * found.stages
        assert tile_bytes <= GPUS[gpu].limits.shared
        across = -(-m // found.down) * -(-n // found.across)
        length, parts = tiles.cut(B, found.inside, across, device)
        assert length % found.inside == 0 and (parts - 1) * length < B <= parts * length
        assert 1 <= tiles.slab(B, n, torch.float32, itemsize, device) <= B
    tiles.product_tiles.cache_clear()
    tiles.slab.cache_clear()
