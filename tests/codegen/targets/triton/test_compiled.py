"""Every kernel compiles to machine code for GPUs that need not be there, and its tiles fit their shared memory."""

import contextlib
import inspect
import re

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from affine_divergence.kernels.triton import (  # noqa: E402
    affine_like,
    norm_like,
    norm_like_without_bias,
    patch_affine_like,
    patch_affine_like_centred,
    unit,
)
from affine_divergence.kernels.triton.runtime import patches, tiles  # noqa: E402
from affine_divergence.runtime.patch_places import as_numbers  # noqa: E402
from affine_divergence.runtime.patches import Geometry  # noqa: E402

GPUS = {  # multiprocessors, shared memory of a block, shared cache
    80: tiles.Limits(108, 163 << 10, 40 << 20),
    86: tiles.Limits(82, 99 << 10, 6 << 20),
    90: tiles.Limits(132, 227 << 10, 50 << 20),
}
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
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


def source(kernel, arguments, fixed):
    """Return what Triton compiles for a launch: types, numbers that are one, and which are multiples of 16."""
    types, constants, attributes = {}, dict(fixed), {}
    for position, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if isinstance(value, torch.Tensor):
            types[name] = POINTERS[value.dtype]
        elif value == 1:
            constants[name] = 1
        else:
            types[name] = "i32"
        if isinstance(value, torch.Tensor) or (value % 16 == 0 and value != 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    types = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    return ASTSource(kernel, types, constants, attributes)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Compile what is launched instead of launching it; return the kernels' names, each with its shared memory."""
    found = []

    def build(gpu):
        def launch(kernel, grid):
            def compile_it(*arguments, **settings):
                options = {name: settings.pop(name) for name in OPTIONS}
                target = GPUTarget("cuda", gpu, 32)
                made = triton.compile(source(kernel, arguments, settings), target=target, options=options)
                assert made.asm["cubin"]
                found.append((kernel.__name__, made.metadata.shared))

            return compile_it

        monkeypatch.setattr(triton.JITFunction, "__getitem__", launch)
        monkeypatch.setattr(tiles, "limits", lambda device: GPUS[gpu])
        for function in (tiles.product_tiles, tiles.whole_row_tiles, tiles.slab):
            function.cache_clear()
        return found

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for module in (affine_like, norm_like, norm_like_without_bias):
        monkeypatch.setattr(module, "on", lambda x: contextlib.nullcontext())
    yield build
    for function in (tiles.product_tiles, tiles.whole_row_tiles, tiles.slab):
        function.cache_clear()


def launch_all(module, dtype, shape):
    """Run the forward and the backward launches of one layer on tensors without memory."""
    B, n, m = shape
    x, W, b, g = (torch.empty(s, dtype=dtype, device="meta") for s in ((B, n), (m, n), (m,), (B, m)))
    f = torch.empty(B, 1, dtype=torch.promote_types(dtype, torch.float32), device="meta")
    bias, in_backward = [b] * (module is not norm_like_without_bias), [b] * (module is affine_like)
    module.forward(x, W, *bias, 1.7)
    module.backward(g, x, W, *in_backward, f, 1.7, [True] * (2 + len(bias)))


def check(build, gpu, module, dtype, shapes):
    found = build(gpu)
    for shape in shapes:
        launch_all(module, dtype, shape)
    assert all(shared <= GPUS[gpu].shared for _, shared in found), found
    return {name for name, _ in found}


def test_kernels_compile_for_the_newest_gpu(compiled):
    assert check(compiled, 90, affine_like, torch.bfloat16, SHAPES[:2]) == KERNELS


@pytest.mark.slow
@pytest.mark.parametrize(("gpu", "dtype"), [(80, torch.float16), (86, torch.bfloat16), (90, torch.float64)], ids=str)
def test_kernels_compile_for_every_gpu_and_type(compiled, gpu, dtype):
    assert check(compiled, gpu, affine_like, dtype, SHAPES) == KERNELS


@pytest.mark.slow
@pytest.mark.parametrize("module", [norm_like, norm_like_without_bias], ids=lambda m: m.__name__)
def test_kernels_of_the_other_maps_compile(compiled, module):
    missing = KERNELS - check(compiled, 90, module, torch.bfloat16, SHAPES)
    assert missing <= {"gradient_rows_kernel"}


@pytest.mark.slow
@pytest.mark.parametrize(("gpu", "dtype"), [(80, torch.float16), (90, torch.bfloat16), (90, torch.float64)], ids=str)
def test_kernels_of_rows_at_unit_length_compile(compiled, monkeypatch, gpu, dtype):
    """Queries and keys of a packed projection, in heads of a usual width and of the widest."""
    found = compiled(gpu)
    monkeypatch.setattr(unit, "on", lambda x: contextlib.nullcontext())
    for heads, width in ((16, 64), (1, unit._WIDEST)):
        packed = torch.empty(4, 128, 3 * heads * width, dtype=dtype, device="meta")
        q, k, g = (t.unflatten(-1, (heads, width)).transpose(1, 2) for t in packed.chunk(3, -1))
        u_q, f_q, u_k, f_k = unit.forward(q, k)
        for wanted in ([True, True], [False, True]):
            unit.backward(g, u_q, f_q, g, u_k, f_k, wanted)
    assert {name for name, _ in found} == {"forward_kernel", "backward_kernel"}
    assert all(shared <= GPUS[gpu].shared for _, shared in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "gpu", "dtype"),
    [(patch_affine_like, 90, torch.bfloat16), (patch_affine_like_centred, 80, torch.float32)],
    ids=["plain", "centred"],
)
def test_kernels_of_convolutions_compile(compiled, monkeypatch, module, gpu, dtype):
    """Every launch of PatchNorm on tensors without memory, forward and backward, the product kept or not."""
    found = compiled(gpu)
    monkeypatch.setattr(patches, "on", lambda x: contextlib.nullcontext())
    monkeypatch.setattr(patches, "has_values", lambda x: True)
    shapes = ((4, 1, 64, 9, 9), (1, 32, 64, 3, 3), (1, 32, 1, 1), (4, 1, 32, 5, 5))
    x, W, b, g = (torch.empty(s, dtype=dtype, device="meta") for s in shapes)
    numbers = as_numbers(Geometry((3, 3), (2, 2), (1, 1), (1, 1), (0, 0)))
    for recompute in (True, False):
        _, f, h = module.forward(x, W, b, 1.7, numbers, recompute)
        module.backward(g, x, W, b, f, None if recompute else h, 1.7, numbers, [True] * 3)
    assert {name for name, _ in found} == set(re.findall(r"def (\w+_kernel)\(", inspect.getsource(module)))
    assert all(shared <= GPUS[gpu].shared for _, shared in found)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", [*SHAPES, (128, 512, 512), (1, 1, 1), (65536, 64, 4096)], ids=str)
def test_tiles_follow_from_the_shape(gpu, shape, monkeypatch):
    """Tiles fit, slabs cover whole waves or all rows, and the parts of a sum cover it."""
    monkeypatch.setattr(tiles, "limits", lambda device: GPUS[gpu])
    B, n, m = shape
    device = torch.device("meta")
    for itemsize in (2, 4, 8):
        tiles.product_tiles.cache_clear()
        tiles.slab.cache_clear()
        found = tiles.product_tiles(m, n, itemsize, device, B)
        assert all(size >= 16 and size & (size - 1) == 0 for size in found.sizes)
        tile_bytes = (found.down + found.across) * found.inside * itemsize * found.stages
        assert tile_bytes <= GPUS[gpu].shared
        across = -(-m // found.down) * -(-n // found.across)
        length, parts = tiles.cut(B, found.inside, across, device)
        assert length % found.inside == 0 and (parts - 1) * length < B <= parts * length
        assert 1 <= tiles.slab(B, n, torch.float32, itemsize, device) <= B
    tiles.product_tiles.cache_clear()
    tiles.slab.cache_clear()
