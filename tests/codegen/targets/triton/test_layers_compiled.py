"""Triton kernels of layers from files compile to machine code for several GPUs, without having one."""

from __future__ import annotations

import contextlib
import importlib
import sys

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from codegen.compiler import build_layer  # noqa: E402
from codegen.package import write  # noqa: E402
from derive.spec import loads_spec  # noqa: E402
from tests.codegen.layer_files import FILES  # noqa: E402
from tests.codegen.targets.cpp.test_layers import operands, run  # noqa: E402

POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
}
CASES = [
    ("tokens", "affine_like", 90, torch.bfloat16),
    *(
        pytest.param(name, "norm_like", gpu, dtype, marks=pytest.mark.slow)
        for name, gpu, dtype in (("thrice_padded", 80, torch.float32), ("softmaxed", 90, torch.float16))
    ),
]


def compiled(kernel, gpu, arguments, settings):
    """Compile a launch."""
    types, constants = {}, {k: v for k, v in settings.items() if k in kernel.arg_names}
    fixed = {p.name for p in kernel.params if p.is_constexpr}
    for name, value in zip(kernel.arg_names, arguments, strict=False):
        if name in fixed or (isinstance(value, int) and value == 1):
            constants[name] = value
        else:
            types[name] = POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    options = {k: v for k, v in settings.items() if k not in kernel.arg_names}
    return triton.compile(ASTSource(kernel, signature, constants, {}), GPUTarget("cuda", gpu, 32), options=options)


@pytest.mark.parametrize(("name", "kind", "gpu", "dtype"), CASES)
def test_kernels_compile(tmp_path, monkeypatch, name, kind, gpu, dtype):
    write(build_layer(loads_spec(FILES[name].text), targets=("torch", "triton")), tmp_path / f"compiled_{name}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    made, found = importlib.import_module(f"compiled_{name}"), {}

    def launch(kernel, grid):
        return lambda *arguments, **settings: found.update(
            {kernel.__name__: compiled(kernel, gpu, arguments, settings).asm["cubin"]}
        )

    monkeypatch.setattr(triton.JITFunction, "__getitem__", launch)
    samples = importlib.import_module(f"compiled_{name}.kernels.triton.runtime.samples")
    backends = importlib.import_module(f"compiled_{name}.runtime.backends")
    monkeypatch.setattr(samples, "on", lambda x: contextlib.nullcontext())
    monkeypatch.setattr(backends, "_misplaced", lambda backend, device: "")
    run(made, name, kind, operands(name, dtype), "triton")
    assert len(found) > 1 and all(found.values())
    for module in [m for m in sys.modules if m.split(".")[0] == f"compiled_{name}"]:
        del sys.modules[module]
