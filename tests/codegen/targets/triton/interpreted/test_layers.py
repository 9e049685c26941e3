"""Triton kernels of layers from files in Triton's interpreter: any layer gets them, and they are correct."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")

from codegen.compiler import build_layer
from codegen.package import write
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES, toml
from tests.codegen.targets.cpp.test_layers import distance, operands, run
from tests.codegen.test_spec_generation import ONE_KIND

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter is NumPy
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
    place = tmp_path_factory.mktemp("programs")
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))
    for name in [m for m in sys.modules if m.split(".")[0].startswith("programs_")]:
        del sys.modules[name]


def package(folder, name, changed=("", "")):
    home = f"programs_{name}{'_changed' * bool(changed[0])}"
    if not (folder / home).exists():
        texts = build_layer(loads_spec(FILES[name].text), targets=("torch", "triton"), insist=True)
        if changed[0]:
            texts = {path: t.replace(*changed) if "kernels/triton" in path else t for path, t in texts.items()}
        write(texts, folder / home)
    return importlib.import_module(home)


def launches(made, monkeypatch):
    """Record the launches of a package's kernels."""
    module, found = importlib.import_module(f"{made.__name__}.kernels.triton.runtime.samples"), []
    on = module.on
    monkeypatch.setattr(module, "on", lambda x: found.append(x) or on(x))
    return found


@maps
def test_kernels_compute_what_torchs_operations_do(folder, name, kind, monkeypatch):
    made, given = package(folder, name), operands(name, torch.float64, batch=5)
    found = launches(made, monkeypatch) if name in ("tanh_features", "tokens") else None
    assert distance(run(made, name, kind, given, "triton"), run(made, name, kind, given, "torch")) < 1e-13
    assert found is None or found, "no kernel ran"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tanh_features", "affine_like"), ("tokens", "norm_like"), ("two_inputs", "affine_like"), ("padded", "norm_like")],
)
@pytest.mark.slow
def test_single_precision_at_any_magnitude_and_sixteen_bits(folder, name, kind):
    made = package(folder, name)
    far = name not in ("two_inputs", "softmaxed") and (name, kind) != ("tanh_features", "norm_like")
    cases = [(torch.float32, s, 1e-5) for s in ((1e-30, 1.0, 1e30) if far else (1.0,))]
    for dtype, scale, bound in [*cases, (torch.bfloat16, 1.0, 2e-2), (torch.float16, 1.0, 3e-3)]:
        given = operands(name, dtype, batch=3, scale=scale)
        exact = run(made, name, kind, [t.double() if t.is_floating_point() else t for t in given], "torch")
        found = run(made, name, kind, given, "triton")
        assert all(torch.isfinite(t).all() for t in found)
        assert distance(found, exact) < bound, (dtype, scale)


def test_some_gradients_alone_and_no_samples(folder):
    made = package(folder, "tokens")
    for batch, wanted in ((0, (1,)), (1, (2,)), (2, (1, 3))):
        given = operands("tokens", torch.float64, batch)
        found, exact = (run(made, "tokens", "norm_like", given, b, wanted) for b in ("triton", "torch"))
        assert distance(found, exact) < 1e-13, (batch, wanted)


def test_a_damaged_kernel_is_noticed(folder):
    made = package(folder, "tokens", ("entry % n", "entry % (n - 1)"))
    given = operands("tokens", torch.float64, batch=3)
    found, exact = (run(made, "tokens", "norm_like", given, b) for b in ("triton", "torch"))
    assert distance(found, exact) > 1e-3


def test_one_entry_of_a_sample_is_a_number_and_no_tile(folder):
    text = toml("picked", "n m", "x: n, a: 2", "W: m n, b: m", "z: m", "z[i] = a[1]*sum[j](W[i, j]*x[j]) + b[i]")
    write(build_layer(loads_spec(text), targets=("torch", "triton"), insist=True), folder / "programs_picked")
    made, generator = importlib.import_module("programs_picked"), torch.Generator().manual_seed(0)
    given = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((3, 4), (3, 2), (5, 4), (5,))]
    found, exact = ([t.clone().requires_grad_() for t in given] for _ in range(2))
    made.functional.picked_affine_like(*found, backend="triton").square().sum().backward()
    made.functional.picked_affine_like(*exact, backend="torch").square().sum().backward()
    assert distance([t.grad for t in found], [t.grad for t in exact]) < 1e-13


def test_a_look_up_of_a_sample_is_a_position_on_every_target(folder):
    """The entry ``t[0]`` is gathered into a number, which then is a position."""
    text = toml(
        "taken",
        "n m",
        "x: n, t: 1 < m",
        "W: m n, b: m",
        "z: m",
        "u[i] = sum[j](W[i, j]*x[j]) + b[i]",
        "z[i] = u[i] - u[t[0]]",
    )
    write(build_layer(loads_spec(text), targets=("torch", "triton", "cpp")), folder / "programs_taken")
    made, generator = importlib.import_module("programs_taken"), torch.Generator().manual_seed(0)
    given = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((3, 4), (5, 4), (5,))]
    found = []
    for backend in ("torch", "triton", "cpp"):
        x, W, b = (t.clone().requires_grad_() for t in given)
        made.functional.taken(x, torch.tensor([[4], [0], [2]]), W, b, backend=backend).square().sum().backward()
        found.append([x.grad, W.grad, b.grad])
    assert distance(found[1], found[0]) < 1e-13 and distance(found[2], found[0]) < 1e-13
