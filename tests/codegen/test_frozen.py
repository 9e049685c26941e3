"""The generated layers compute what those of the package in tests/frozen do, to rounding error.

That package was generated before the compiler was rearranged and is edited by nobody. It stands here as the reference
while targets move onto one pipeline.
"""

import itertools
import sys
from pathlib import Path

import pytest
import torch

import affine_divergence as ad
from codegen.package import MANIFEST
from verify.checks.target import imported

FOLDER = Path(__file__).parents[1] / "frozen" / "frozen_layers"
ROUNDING = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
TYPES = list(ROUNDING)
BACKENDS = ["torch", None]  # None takes the kernels in C++, where there are some


@pytest.fixture(scope="module")
def frozen():
    package = imported(FOLDER)
    yield package
    for name in [n for n in sys.modules if n.split(".")[0] == package.__name__]:
        del sys.modules[name]


def built(package, name, arguments, dtype, settings):
    torch.manual_seed(0)
    return getattr(package, name)(*arguments, dtype=dtype, **settings)


def results(module, inputs, dtype):
    """The output and the gradients with respect to inputs and parameters."""
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in inputs]
    given = [t.requires_grad_() for t in given]
    z = module(*given)
    z = z[0] if isinstance(z, tuple) else z
    g = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(dtype)
    wanted = [*given, *module.parameters()]
    return [z.detach(), *torch.autograd.grad(z, wanted, g)]


def assert_same(frozen, name, arguments, inputs, dtype, **settings):
    old, new = (results(built(p, name, arguments, dtype, settings), inputs, dtype) for p in (frozen, ad))
    for a, b in zip(new, old, strict=True):
        scale = b.double().abs().max().clamp(min=1e-30)
        assert float((a.double() - b.double()).abs().max() / scale) <= ROUNDING[dtype]


ROWS = [
    ("AffineLike", {}),
    ("AffineLike", {"kappa": 3.5}),
    ("NormLike", {}),
    ("NormLike", {"bias": False}),
    ("NormLike", {"center": True, "kappa": 2.5}),
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize(("name", "settings"), ROWS, ids=str)
def test_rows(frozen, name, settings, backend, dtype):
    for batch, n, m in ((1, 1, 1), (5, 7, 3), (64, 33, 65)):
        assert_same(frozen, name, (n, m), [(batch, n)], dtype, backend=backend, **settings)
    assert_same(frozen, name, (6, 4), [(2, 3, 6)], dtype, backend=backend, **settings)


def patches():
    for axes, form, bias in itertools.product((1, 2, 3), ("affine-like", "norm-like"), (True, False)):
        if bias or form == "norm-like":
            yield f"PatchNormConv{axes}d", {"form": form, "bias": bias, "stride": 2, "padding": 1}
            yield f"PatchNormConvTranspose{axes}d", {"form": form, "bias": bias, "stride": 2, "output_padding": 1}
            yield f"PatchNormConv{axes}d", {"form": form, "bias": bias, "center": True, "dilation": 2, "padding": 1}
            yield f"PatchNormConv{axes}d", {"form": form, "bias": bias, "groups": 2, "kappa": 4.5}


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [
        *((dtype, "torch") for dtype in (torch.float64, torch.float32, torch.bfloat16)),
        pytest.param(torch.float32, None, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize(("name", "settings"), list(patches()), ids=str)
def test_patches(frozen, name, settings, backend, dtype):
    axes = int(name[-2])
    assert_same(frozen, name, (4, 6, 3), [(3, 4, *[9 - axes] * axes)], dtype, backend=backend, **settings)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("settings", [{}, {"qk_norm": True}, {"value_path": True}, {"kdim": 5, "vdim": 7}], ids=str)
def test_attention(frozen, settings, dtype):
    kdim, vdim = settings.get("kdim", 8), settings.get("vdim", 8)
    inputs = [(2, 3, 8), (2, 5, kdim), (2, 5, vdim)]
    assert_same(frozen, "AffineLikeMultiheadAttention", (8, 2), inputs, dtype, batch_first=True, **settings)


def test_a_difference_is_seen(frozen, tmp_path):
    """Both packages with other settings differ by more than rounding."""
    module = built(ad, "AffineLike", (7, 3), torch.float64, {"kappa": 1.0})
    other = built(frozen, "AffineLike", (7, 3), torch.float64, {"kappa": 1.001})
    pairs = zip(results(module, [(5, 7)], torch.float64), results(other, [(5, 7)], torch.float64), strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) > 1e-4


def test_the_reference_is_as_it_was_generated():
    import hashlib
    import json

    listed = json.loads((FOLDER / MANIFEST).read_text(encoding="utf-8"))["files"]
    assert {n: hashlib.sha256((FOLDER / n).read_bytes()).hexdigest() for n in listed} == listed
