"""Compile kernels for GPUs without having one: launches on tensors without memory are compiled instead of run."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from affine_divergence.kernels.triton import affine_like, norm_like, norm_like_without_bias, unit  # noqa: E402
from affine_divergence.kernels.triton.runtime import far_patches, patches, tiles  # noqa: E402

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name in Triton, its limits, and its instruction for 16-bit matrix products."""

    target: GPUTarget
    limits: tiles.Limits
    product: str


GPUS = {
    "sm_80": Gpu(GPUTarget("cuda", 80, 32), tiles.Limits(108, 163 << 10, 40 << 20), r"mma\.sync\.aligned\.m16n8k16"),
    "sm_86": Gpu(GPUTarget("cuda", 86, 32), tiles.Limits(82, 99 << 10, 6 << 20), r"mma\.sync\.aligned\.m16n8k16"),
    "sm_90": Gpu(GPUTarget("cuda", 90, 32), tiles.Limits(132, 227 << 10, 50 << 20), r"wgmma\.mma_async"),
    "sm_100": Gpu(GPUTarget("cuda", 100, 32), tiles.Limits(148, 227 << 10, 126 << 20), r"tcgen05\.mma"),
    "gfx942": Gpu(GPUTarget("hip", "gfx942", 64), tiles.Limits(304, 64 << 10, 256 << 20), r"v_mfma_f32\w*_(bf|f)16"),
}


@dataclass(frozen=True)
class Made:
    """A compiled kernel: shared memory per block, registers and spilled bytes per thread, and its assembly."""

    name: str
    shared: int
    registers: int
    spilled: int
    text: str


def nvidia(made, folder: Path) -> tuple[int, int, str]:
    """Return registers, stack bytes (which include spills), and PTX."""
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


def source(kernel, arguments, fixed):
    """Return the source that Triton compiles for a launch: types, arguments equal to one, and multiples of 16."""
    types, constants, attributes = {}, dict(fixed), {}

    def kind(value, place, key):
        if isinstance(value, tuple):
            return tuple(kind(v, (*place, k), (*place, k)) for k, v in enumerate(value))
        if isinstance(value, torch.Tensor) or (value % 16 == 0 and value != 0):
            attributes[place] = [["tt.divisibility", 16]]
        if not isinstance(value, torch.Tensor) and value == 1:
            constants[key] = 1
            return "constexpr"
        return POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"

    for position, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        types[name] = kind(value, (position,), name)
    types = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    return ASTSource(kernel, types, constants, attributes)


@contextlib.contextmanager
def compiling(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Callable[[Gpu], list[Made]]]:
    """Return a function that compiles subsequent launches for a given GPU, and returns the growing list of kernels."""
    sizes = (tiles.product_tiles, tiles.whole_row_tiles, tiles.slab)

    def on(gpu: Gpu) -> list[Made]:
        found: list[Made] = []

        def launch(kernel, grid):
            def compile_it(*arguments, **settings):
                options = {name: settings.pop(name) for name in OPTIONS}
                if gpu.target.backend == "hip":
                    del options["enable_fp_fusion"]  # decided by that compiler
                made = triton.compile(source(kernel, arguments, settings), target=gpu.target, options=options)
                read = amd(made) if gpu.target.backend == "hip" else nvidia(made, folder)
                found.append(Made(kernel.__name__, made.metadata.shared, *read))

            return compile_it

        monkeypatch.setattr(triton.JITFunction, "__getitem__", launch)
        monkeypatch.setattr(tiles, "limits", lambda device: gpu.limits)
        for function in sizes:
            function.cache_clear()
        return found

    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
    for module in (affine_like, norm_like, norm_like_without_bias, unit, patches, far_patches):
        monkeypatch.setattr(module, "on", lambda x: contextlib.nullcontext())
    for module in (patches, far_patches):
        monkeypatch.setattr(module, "has_values", lambda x: True)
    yield on
    for function in sizes:
        function.cache_clear()


def launch_all(module, dtype, shape):
    """Run the forward and the backward launches of one layer on tensors without memory."""
    B, n, m = shape
    x, W, b, g = (torch.empty(s, dtype=dtype, device="meta") for s in ((B, n), (m, n), (m,), (B, m)))
    f = torch.empty(B, 1, dtype=torch.promote_types(dtype, torch.float32), device="meta")
    bias, in_backward = [b] * (module is not norm_like_without_bias), [b] * (module is affine_like)
    module.forward(x, W, *bias, 1.7)
    module.backward(g, x, W, *in_backward, f, 1.7, [True] * (2 + len(bias)))
