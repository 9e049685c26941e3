"""Convolutions for JAX against the shipped package's in float64: geometries, magnitudes, JAX's transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import affine_divergence
from tests.codegen.targets.jax.conftest import arrays, cotangent

jax = pytest.importorskip("jax", reason="pip install affine-divergence[jax]")
eqx = pytest.importorskip("equinox", reason="pip install affine-divergence[jax]")
jnp = jax.numpy

pytestmark = pytest.mark.slow
PLAIN = {
    "plain": (2, (2, 4, 6, 5), (6, 4, 3, 2), {}),
    "grouped, strided, with holes": (
        2,
        (2, 4, 9, 8),
        (6, 2, 3, 2),
        {"groups": 2, "stride": (2, 3), "dilation": (1, 2), "padding": (2, 1)},
    ),
    "one axis, same": (1, (2, 3, 9), (4, 3, 4), {"padding": "same"}),
    "three axes": (3, (1, 2, 4, 5, 4), (3, 2, 2, 3, 2), {"padding": 1, "stride": 2}),
}
TRANSPOSED = {
    "plain": (2, (2, 4, 4, 3), (4, 3, 3, 2), {}),
    "grouped, strided, longer": (
        2,
        (2, 4, 4, 3),
        (4, 3, 3, 2),
        {"groups": 2, "stride": 3, "padding": (1, 0), "output_padding": (2, 1)},
    ),
    "one axis, with holes": (1, (2, 3, 6), (3, 4, 3), {"dilation": 2, "stride": 2, "padding": 3}),
    "three axes": (3, (1, 2, 3, 2, 3), (2, 3, 2, 2, 3), {"stride": 2}),
}
SETTINGS = [
    {"form": "affine-like"},
    {"form": "norm-like", "kappa": 3.5},
    {"form": "norm-like", "bias": False},
    {"form": "affine-like", "center": True},
    {"form": "norm-like", "center": True, "bias": False},
]
CASES = [(False, name, s) for name in PLAIN for s in SETTINGS]
CASES += [(True, name, s) for name in TRANSPOSED for s in SETTINGS[:3]]
cases = pytest.mark.parametrize(("transposed", "name", "settings"), CASES, ids=str)
SOME = [(False, "grouped, strided, with holes", s) for s in (SETTINGS[0], SETTINGS[4])]
SOME += [(True, "grouped, strided, longer", SETTINGS[1])]
some = pytest.mark.parametrize(("transposed", "name", "settings"), SOME, ids=str)
MODES = ("reverse", "forward")


def operands(transposed, name, settings, scale=1.0, dtype=torch.float32):
    """Return input, weight and optionally bias; the second image is ordinary for any scale."""
    _, image, kernel, numbers = (TRANSPOSED if transposed else PLAIN)[name]
    draw = torch.Generator().manual_seed(5)
    x, weight = (torch.randn(shape, generator=draw) for shape in (image, kernel))
    x[0] = (x[0].clamp(-3, 3) * scale).where(x[0] > -1, 0)  # zeros, which must not determine the units of a sum
    made = kernel[1] * numbers.get("groups", 1) if transposed else kernel[0]
    bias = [torch.randn(made, generator=draw)] if settings.get("bias", True) else []
    return [t.to(dtype) for t in (x, weight, *bias)]


def called(module, transposed, name, settings):
    """Return the function of a package with its settings filled in."""
    axes, _, _, numbers = (TRANSPOSED if transposed else PLAIN)[name]
    function = getattr(module, f"patch_norm_conv{'_transpose' if transposed else ''}{axes}d")
    options = {k: v for k, v in settings.items() if k != "bias"}
    return lambda x, weight, bias=None, **more: function(x, weight, bias, **numbers, **options, **more)


def reference(transposed, name, settings, given):
    leaves = [t.double().requires_grad_() for t in given]
    z = called(affine_divergence.functional, transposed, name, settings)(*leaves)
    g = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z)
    return [t.detach() for t in (z, *torch.autograd.grad(z, leaves, g))]


def results(function, given, mode="reverse"):
    """Return the output and the gradients, compiled as one program."""

    @jax.jit
    def both(*given):
        z, back = jax.vjp(lambda *t: function(*t, mode=mode), *given)
        return z, *back(cotangent(z))

    return both(*given)


def distance(found, wanted):
    pairs = [(np.asarray(a, np.float64), b.numpy()) for a, b in zip(found, wanted, strict=True)]
    return max(float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-300)) for a, b in pairs)


@cases
def test_values_and_gradients_are_those_of_torch(catalogue, transposed, name, settings):
    given = operands(transposed, name, settings)
    wanted = reference(transposed, name, settings, given)
    for mode in MODES if (transposed, name, settings) in SOME else MODES[:1]:
        function = called(catalogue.functional, transposed, name, settings)
        assert distance(results(function, arrays(given), mode), wanted) < 5e-6, mode


@some
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e30, 1e38])
def test_an_image_of_any_magnitude_beside_an_ordinary_one(catalogue, transposed, name, settings, scale):
    """For an image with entries up to the end of float32 the gradient underflows; everything else is right."""
    given = operands(transposed, name, settings, scale)
    wanted = reference(transposed, name, settings, given)
    for mode in MODES:
        found = results(called(catalogue.functional, transposed, name, settings), arrays(given), mode)
        assert all(np.isfinite(a).all() for a in found)
        for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
            parts = [slice(0, 1), slice(1, 2)] if k < 2 else [slice(None)]
            if k == 1 and scale == 1e38:
                parts = parts[1:]
            assert max(distance([a[p]], [b[p]]) for p in parts) < 1e-5, (mode, k)


@pytest.mark.parametrize("form", ["affine-like", "norm-like"])
def test_nearly_constant_patches_keep_their_digits(catalogue, form):
    """The difference of the mean square and the squared mean would lose all digits in float32."""
    settings = {"form": form, "center": True}
    given = operands(False, "plain", settings)
    given[0] = given[0] + 1000.0
    wanted = reference(False, "plain", settings, given)
    found = results(called(catalogue.functional, False, "plain", settings), arrays(given))
    assert distance(found[:1], wanted[:1]) < 1e-3 and distance(found[1:], wanted[1:]) < 1e-2


@some
def test_compiled_mapped_and_twice_differentiated(catalogue, transposed, name, settings):
    function, given = (
        called(catalogue.functional, transposed, name, settings),
        arrays(operands(transposed, name, settings)),
    )
    moved = tuple(jnp.cos(a + k) for k, a in enumerate(given))
    plain = results(function, given)
    z, tangent = jax.jit(lambda p, t: jax.jvp(lambda *u: function(*u, mode="forward"), p, t))(tuple(given), moved)
    by_rows = sum(jnp.vdot(d, t) for d, t in zip(plain[1:], moved, strict=True))
    assert np.isclose(jnp.vdot(tangent, cotangent(z)), by_rows, 1e-3) and np.allclose(function(*given), z, 1e-5, 1e-5)

    def loss(*t, mode):
        return (function(*t, mode=mode) ** 2).sum()

    own = tuple(range(len(given)))
    gradients = [jax.jit(jax.grad(lambda *t, m=m: loss(*t, mode=m), own)) for m in MODES]
    twice = jax.vmap(gradients[0])(*(jnp.stack([a, a]) for a in given))
    once = gradients[1](*given)
    assert all(np.allclose(a[1], b, 1e-4, 1e-5 * float(jnp.abs(b).max())) for a, b in zip(twice, once, strict=True))
    first, second = (
        jax.jit(jax.grad(lambda *t, d=d: sum((a**2).sum() for a in d(*t)), own))(*given) for d in gradients
    )
    assert all(np.allclose(a, b, 1e-3, 1e-3 * float(jnp.abs(b).max())) for a, b in zip(first, second, strict=True))


@some
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits(catalogue, transposed, name, settings, dtype):
    given = operands(transposed, name, settings, dtype=getattr(torch, dtype))
    wanted = reference(transposed, name, settings, given)
    found = results(called(catalogue.functional, transposed, name, settings), arrays(given, dtype))
    assert {str(a.dtype) for a in found} == {dtype}
    assert distance(found, wanted) < {"bfloat16": 2e-2, "float16": 3e-3}[dtype]


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose1d"])
def test_modules_compute_what_torchs_do(catalogue, kind):
    axes, options = int(kind[-2]), {"stride": 2, "padding": 1}
    module = getattr(catalogue, f"PatchNorm{kind}")(4, 6, 3, **options, groups=2, key=jax.random.key(1), kappa=2.0)
    twin = getattr(affine_divergence, f"PatchNorm{kind}")(4, 6, 3, **options, groups=2, kappa=2.0)
    with torch.no_grad():
        twin.weight.copy_(torch.tensor(np.asarray(module.weight)))
    x = np.random.default_rng(0).normal(size=(2, 3, 4, *[5] * axes)).astype(np.float32)
    wanted = torch.stack([twin(torch.tensor(part)) for part in x]).detach()
    assert (
        np.allclose(module(jnp.asarray(x)), wanted, 1e-4, 1e-5)
        and module(jnp.asarray(x[0, 0])).shape == wanted[0, 0].shape
    )
    inner = eqx.filter_jit(eqx.filter_grad(lambda m, x: (m(x) ** 2).sum()))(module, jnp.asarray(x))
    assert inner.weight.shape == module.weight.shape and inner.bias.shape == (6,)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f, x, w: f(x, w, form="other"), ValueError, "form is 'other'; choose one of"),
        (lambda f, x, w: f(x, w), ValueError, "the bias is missing, and the form 'affine-like' exists only with"),
        (lambda f, x, w: f(x, w, w[:, 0, 0, 0], groups=4), ValueError, "which 4 groups do not divide"),
        (lambda f, x, w: f(x, w, w[:, 0, 0, 0], stride=0), ValueError, "stride is 0; give 2 integers of at least 1"),
        (lambda f, x, w: f(x[:, :3], w, w[:, 0, 0, 0]), ValueError, "3 channels, but the weight"),
        (lambda f, x, w: f(x[..., :1], w, w[:, 0, 0, 0]), ValueError, "the kernel spans 2 positions of axis 1"),
        (lambda f, x, w: f(x, w, w[:, 0, 0, 0], kappa=0.0), ValueError, "kappa is 0.0"),
        (lambda f, x, w: f(x, w, w[:, 0, 0, 0], mode="up"), ValueError, "mode is 'up'"),
        (lambda f, x, w: f(x.astype(int), w), ValueError, "bias is missing"),
        (lambda f, x, w: f(x.astype(int), w, w[:, 0, 0, 0]), TypeError, "give real floating-point numbers"),
    ],
)
def test_errors_name_the_value_the_cause_and_the_fix(catalogue, call, error, words):
    x, weight, _ = arrays(operands(False, "plain", {}))
    with pytest.raises(error, match=words):
        call(catalogue.functional.patch_norm_conv2d, x, weight)
