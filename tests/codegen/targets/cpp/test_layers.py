"""C++ kernels of layers from files: any layer gets them, and they compute the same as torch's operations."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import sys

import pytest
import torch

from codegen.compiler import build_layer
from codegen.package import write
from codegen.printing.sample_loops import spelled
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES
from tests.codegen.test_spec_generation import ONE_KIND, layer, length
from tests.emitted import file_of

EVERYDAY = {
    ("tanh_features", "affine_like"),
    ("padded", "norm_like"),
    ("tokens", "affine_like"),
    ("two_inputs", "norm_like"),
}
KAPPA = 5.3
maps = pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*m, marks=() if m in EVERYDAY else pytest.mark.slow, id="-".join(m))
        for m in sorted({*ONE_KIND, *EVERYDAY})
    ],
)
in_range = pytest.mark.parametrize(  # features that stay in range although squares of the input do not
    maps.args[0],
    [
        m
        for m in maps.args[1]
        if m.values[0] not in ("two_inputs", "softmaxed") and m.values != ("tanh_features", "norm_like")
    ],
)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Import the package of a layer, written once."""
    folder = tmp_path_factory.mktemp("kernels")
    sys.path.insert(0, str(folder))

    def load(name):
        if not (folder / f"walked_{name}").exists():
            write(build_layer(loads_spec(FILES[name].text)), folder / f"walked_{name}")
        return importlib.import_module(f"walked_{name}")

    yield load
    sys.path.remove(str(folder))
    for name in [m for m in sys.modules if m.split(".")[0].startswith("walked_")]:
        del sys.modules[name]


def operands(name, dtype, batch=7, scale=1.0):
    generator = torch.Generator().manual_seed(3)
    sizes, made = FILES[name].sizes, []
    for t in (*layer(name).inputs, *layer(name).parameters):
        shape = [
            length(a, sizes) if a.free_symbols <= {*layer(name).sizes} and str(a) != "B" else batch for a in t.axes
        ]
        if t.values is not None:
            made.append(torch.randint(0, length(t.values, sizes), shape, generator=generator))
        else:
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            made.append((drawn * (scale if t in layer(name).inputs else 1.0)).to(dtype))
    return made


def run(made, name, kind, given, backend, wanted=None):
    """Return the output and the gradients of the wanted operands, by default all real ones."""
    function = getattr(made.functional, f"{name}_{kind}")
    keywords = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    settings = {k: FILES[name].sizes[k] for k in keywords if k != "backend"}
    leaves = [
        t.clone().requires_grad_(t.is_floating_point() and (wanted is None or k in wanted)) for k, t in enumerate(given)
    ]
    z = function(*leaves, KAPPA, backend=backend, **settings)
    g = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z)
    return [z.detach(), *torch.autograd.grad(z, [t for t in leaves if t.requires_grad], g)]


def distance(found, wanted):
    return max(
        float((a.double() - b.double()).norm() / (b.double().norm() + 1e-300))
        for a, b in zip(found, wanted, strict=True)
    )


@maps
def test_kernels_compute_what_torchs_operations_do(package, name, kind, monkeypatch):
    made, given = package(name), operands(name, torch.float64)
    launched = []
    launch = importlib.import_module(f"{made.__name__}.kernels.cpp.runtime.launch")
    monkeypatch.setattr(launch, "get_num_threads", lambda: launched.append(1) or 2)
    found = run(made, name, kind, given, "cpp")
    assert distance(found, run(made, name, kind, given, "torch")) < 1e-13
    maps = (name for _, name, _ in pkgutil.iter_modules(made.kernels.cpp.__path__) if name.endswith(kind))
    modules = [importlib.import_module(f"{made.__name__}.kernels.cpp.{name}") for name in maps]
    assert any(module.KERNELS._made for module in modules), "no kernel was compiled"


@maps
def test_gradients_of_some_operands_alone(package, name, kind):
    made, given = package(name), operands(name, torch.float64)
    real = [k for k, t in enumerate(given) if t.is_floating_point()]
    for count in range(1, len(real)):
        for wanted in itertools.combinations(real, count):
            found, exact = (run(made, name, kind, given, b, wanted) for b in ("cpp", "torch"))
            assert distance(found, exact) < 1e-13, wanted


@in_range
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e15, 1e30])
def test_single_precision_at_any_magnitude(package, name, kind, scale):
    """Compared with float64, in which all squares are in range, for features that themselves stay in range."""
    made, given = package(name), operands(name, torch.float32, scale=scale)
    exact = run(made, name, kind, [t.double() if t.is_floating_point() else t for t in given], "torch")
    for backend in ("cpp", "torch"):
        found = run(made, name, kind, given, backend)
        assert all(torch.isfinite(t).all() for t in found)
        assert distance(found[:1], exact[:1]) < 2e-6, backend
        assert distance(found[1:], exact[1:]) < 1e-5, backend


@maps
def test_no_samples_one_sample_and_strides(package, name, kind):
    made = package(name)
    for batch in (0, 1):
        given = operands(name, torch.float64, batch)
        assert distance(run(made, name, kind, given, "cpp"), run(made, name, kind, given, "torch")) < 1e-13
    given = [torch.stack([t, t], -1)[..., 0] if t.dim() else t for t in operands(name, torch.float64)]
    assert distance(run(made, name, kind, given, "cpp"), run(made, name, kind, given, "torch")) < 1e-13


def test_a_damaged_kernel_is_seen(package, tmp_path):
    """Mutate a line of the kernel: the comparison above must notice."""
    texts = build_layer(loads_spec(FILES["tanh_features"].text))
    source = texts[file_of("cpp", "affine_like.cpp")]
    broken = (
        source.replace("E_sum += Wide(", "E_sum += 2 * Wide(", 1)
        if "E_sum += Wide(" in source
        else source.replace("E_sum += ", "E_sum += 2 * ", 1)
    )
    assert broken != source
    write({**texts, file_of("cpp", "affine_like.cpp"): broken}, tmp_path / "walked_broken")
    sys.path.insert(0, str(tmp_path))
    try:
        made = importlib.import_module("walked_broken")
        given = operands("tanh_features", torch.float64)
        found, exact = (run(made, "tanh_features", "affine_like", given, b) for b in ("cpp", "torch"))
    finally:
        sys.path.remove(str(tmp_path))
    assert distance(found, exact) > 1e-3


def test_names_that_the_kernels_use_are_moved():
    assert [spelled(name) for name in ("sample", "i0", "double", "x")] == ["sample_", "i0_", "double_", "x"]
