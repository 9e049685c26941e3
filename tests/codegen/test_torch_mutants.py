"""Mutants of the torch target's lines must be caught, in every form in which a map is computed."""

import importlib
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import affine_divergence as ad
from tests.emitted import file_of, shared

DOUBLE = torch.float64
ROWS, PATCHES, SHARED = (
    file_of("torch", "affine_like.py"),
    file_of("torch", "patch_affine_like.py"),
    shared("patches.py"),
)
KAPPA = 1.7
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")

DAMAGE = {  # file, text, replacement
    "row term added": (ROWS, "addcmul_(c, u, value=-1)", "addcmul_(c, u, value=1)"),
    "row term added, in a graph": (ROWS, "(f * gW - c * u)", "(f * gW + c * u)"),
    "one dropped under the root": (ROWS, "E.add_(1).rsqrt_()", "E.rsqrt_()"),
    "one dropped under the root, in a graph": (ROWS, "torch.sqrt(q + 1 / peak**2)", "torch.sqrt(q)"),
    "kappa without its root": (ROWS, "mul_(math.sqrt(kappa))", "mul_(kappa)"),
    "scale squared": (ROWS, "xW.mul_(f)", "xW.mul_(f**2)"),
    "bias outside the scale": (ROWS, "(uW + f * b)", "(uW + b)"),
    "row term not divided by kappa": (ROWS, "mul_(f / kappa)", "mul_(f)"),
    "bias left out of the row term": (ROWS, ".addcmul_(f, gb)", ""),
    "weight gradient of the unscaled input": (ROWS, "dW = g.t() @ u  #", "dW = g.t() @ x  #"),
    "scale left out of db": (ROWS, "db = weighted_sum(f, g)", "db = g.sum(0)"),
    "tangent without the bias's": (ROWS, "z_t = (f * x_t_W + u_W_t + f * b_t", "z_t = (f * x_t_W + u_W_t"),
    "one dropped under the root of a patch": (PATCHES, "torch.sqrt(E + 1)", "torch.sqrt(E)"),
    "patch scale squared": (PATCHES, "h.mul_(f)", "h.mul_(f).mul_(f)"),
    "sign of the patch term": (PATCHES, "dx = add_product(dh_W, 2 * dxx", "dx = add_product(dh_W, -2 * dxx"),
    "half of the patch term": (PATCHES, "dx = add_product(dh_W, 2 * dxx", "dx = add_product(dh_W, dxx"),
    "patch gradient of the unscaled output": (PATCHES, "        dh = f * g\n        #", "        dh = g\n        #"),
    "a tap of the box left out": (SHARED, "for k in range(kernel)]\n", "for k in range(max(1, kernel - 1))]\n"),
    "mean over a patch for its sum": (SHARED, ", divisor_override=1)", ")"),
    "a tap of the transposed box left out": (
        SHARED,
        "range(0, kernel * dilation, dilation)",
        "range(0, max(1, kernel - 1) * dilation, dilation)",
    ),
}
ALWAYS = {"row term added", "one dropped under the root", "sign of the patch term", "a tap of the box left out"}


def rows(x, W, b):
    return KAPPA**0.5 * (x @ W.T + b) / torch.sqrt((x * x).sum(-1, keepdim=True) + 1)


def patches(x, W, b, dilation=1):
    energy = F.conv2d(x * x, torch.ones_like(W), padding=1, dilation=dilation)
    return KAPPA**0.5 * F.conv2d(x, W, b, padding=1, dilation=dilation) / torch.sqrt(energy + 1)


def forms(function, inputs):
    """Return output, tangent, gradients and second gradients in float64, and those possible in bfloat16."""
    z, tangent = torch.func.jvp(function, tuple(inputs), tuple(t.cos() for t in inputs))
    leaves = [t.clone().requires_grad_() for t in inputs]
    plain = torch.autograd.grad(function(*leaves).sin().sum(), leaves)
    graph = torch.autograd.grad(function(*leaves).sin().sum(), leaves, create_graph=True)
    twice = torch.autograd.grad(sum(g.sin().sum() for g in graph), leaves)
    return [function(*leaves), z, tangent, *plain, *graph, *twice]


def departs(package):
    """Whether a package's functions differ from handwritten references."""
    generator = torch.Generator().manual_seed(0)
    spaced = partial(patches, dilation=2)  # sums over such patches go axis by axis, others through a pooling call
    for name, twin, shapes, more in (
        ("affine_like", rows, ((5, 4), (3, 4), (3,)), {}),
        ("patch_norm_conv2d", patches, ((2, 2, 5, 4), (3, 2, 3, 3), (3,)), {"padding": 1}),
        ("patch_norm_conv2d", spaced, ((2, 2, 6, 5), (3, 2, 3, 3), (3,)), {"padding": 1, "dilation": 2}),
    ):
        inputs = [torch.randn(shape, generator=generator, dtype=DOUBLE) for shape in shapes]
        function = getattr(package.functional, name)

        def ours(*tensors, function=function, more=more):
            return function(*tensors, kappa=KAPPA, **more)

        pairs = zip(forms(ours, inputs), forms(twin, inputs), strict=True)
        if not all(torch.allclose(a, b, rtol=1e-9, atol=1e-10) for a, b in pairs):
            return True
        brain, exact = ours(*(t.bfloat16() for t in inputs)), twin(*(t.bfloat16().double() for t in inputs))
        if (brain.double() - exact).norm() > 0.01 * exact.norm():
            return True
    return False


def test_what_is_emitted_does_not_depart():
    assert not departs(ad)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in DAMAGE])
def test_damage_is_caught(name, tmp_path, import_package):
    file, old, new = DAMAGE[name]
    package = f"torch_mutant_{list(DAMAGE).index(name)}"
    kept = shutil.ignore_patterns("__pycache__", "cuda", "triton")
    shutil.copytree(Path(ad.__file__).parent, tmp_path / package, ignore=kept)
    text = (tmp_path / package / file).read_text(encoding="utf-8")
    assert old in text, f"{old!r} is no longer emitted; choose other damage"
    (tmp_path / package / file).write_text(text.replace(old, new), encoding="utf-8")
    importlib.invalidate_caches()
    assert departs(import_package(tmp_path, package))
