"""CUDA kernels of layers from files: any layer gets them, they run on the host, and nvcc gives no warning."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys

import pytest
import torch

from codegen.compiler import build_layer
from codegen.package import write
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES
from tests.codegen.targets.cpp.test_layers import distance, operands, run
from tests.codegen.test_spec_generation import ONE_KIND
from verify.cuda_on_host import Host, missing

needs_host = pytest.mark.skipif(bool(missing()), reason=missing())
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
EVERYDAY = {("tanh_features", "affine_like"), ("tokens", "norm_like")}
maps = pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*m, marks=() if m in EVERYDAY else pytest.mark.slow, id="-".join(m))
        for m in sorted({*ONE_KIND, *EVERYDAY})
    ],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("blocks")
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))
    for name in [m for m in sys.modules if m.split(".")[0].startswith("blocks_")]:
        del sys.modules[name]


def package(folder, name):
    if not (folder / f"blocks_{name}").exists():
        texts = build_layer(loads_spec(FILES[name].text), targets=("torch", "cuda"), insist=True)
        write(texts, folder / f"blocks_{name}")
    return importlib.import_module(f"blocks_{name}")


@needs_host
@maps
def test_kernels_compute_what_torchs_operations_do(folder, name, kind):
    """For any order of threads: a kernel with a missing barrier would give different numbers."""
    made, given = package(folder, name), operands(name, torch.float64, batch=5)
    wanted = run(made, name, kind, given, "torch")
    with Host(made.__name__) as host:
        for order in (0, 3):
            host.order = order
            host.forget()
            assert distance(run(made, name, kind, given, "cuda"), wanted) < 1e-13, order
    assert host.launched, "no kernel ran"


@needs_host
@pytest.mark.parametrize(("name", "kind"), ONE_KIND[::4], ids=["-".join(m) for m in ONE_KIND[::4]])
@pytest.mark.slow
def test_single_precision_at_any_magnitude_and_sixteen_bits(folder, name, kind):
    made = package(folder, name)
    far = name not in ("two_inputs", "softmaxed") and (name, kind) != ("tanh_features", "norm_like")
    cases = [(torch.float32, s, 1e-5) for s in ((1e-30, 1.0, 1e30) if far else (1.0,))]
    with Host(made.__name__):
        for dtype, scale, bound in [*cases, (torch.bfloat16, 1.0, 2e-2), (torch.float16, 1.0, 3e-3)]:
            given = operands(name, dtype, batch=3, scale=scale)
            exact = run(made, name, kind, [t.double() if t.is_floating_point() else t for t in given], "torch")
            found = run(made, name, kind, given, "cuda")
            assert all(torch.isfinite(t).all() for t in found)
            assert distance(found, exact) < bound, (dtype, scale)


@needs_host
def test_some_gradients_alone_no_samples_and_strides(folder):
    made = package(folder, "tokens")
    with Host(made.__name__):
        for batch in (0, 1):
            given = operands("tokens", torch.float64, batch)
            for wanted in ((1,), (2,), (1, 3)):
                found, exact = (run(made, "tokens", "norm_like", given, b, wanted) for b in ("cuda", "torch"))
                assert distance(found, exact) < 1e-13, (batch, wanted)
        given = operands("tokens", torch.float64)
        given[1] = torch.stack([given[1], given[1]], -1)[..., 0]
        assert not given[1].is_contiguous()
        found, exact = (run(made, "tokens", "norm_like", given, b) for b in ("cuda", "torch"))
        assert distance(found, exact) < 1e-13


@needs_host
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "__syncthreads();\n        for (Offset entry = threadIdx.x; entry < n * p;",
            "for (Offset entry = threadIdx.x; entry < n * p;",
        ),
        ("sqrt(kappa - 1)", "sqrt(kappa)"),
        ("row_sum(xx", "(xx"),
    ],
)
def test_a_damaged_kernel_is_noticed(folder, old, new):
    made, given = package(folder, "tokens"), operands("tokens", torch.float64, batch=5)
    wanted = run(made, "tokens", "norm_like", given, "torch")
    with Host(made.__name__) as host:
        host.replacements = ((old, new),)
        worst = 0.0
        for order in (0, 3, 7):
            host.order = order
            host.forget()
            worst = max(worst, distance(run(made, "tokens", "norm_like", given, "cuda"), wanted))
    assert worst > 1e-6


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("element", ["float", "double", "Half", "Bfloat"])
def test_nvcc_has_nothing_to_say(folder, element, tmp_path):
    for name in ("tokens", "thrice_padded", "softmaxed"):
        package(folder, name)
        for source in sorted((folder / f"blocks_{name}").glob("kernels/cuda/*.cu")):
            command = ["nvcc", "-std=c++17", "-arch=sm_80", "--Werror", "all-warnings", f"-DELEMENT={element}"]
            command += ["-cubin", "-o", str(tmp_path / "out.cubin"), str(source)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0 and not done.stderr, done.stderr
