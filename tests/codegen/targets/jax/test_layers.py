"""Packages for JAX of layers from files: they compute the same as torch's, compiled, mapped and differentiated."""

from __future__ import annotations

import importlib
import re
from functools import cache

import numpy as np
import pytest
import torch

from codegen.compiler import build_layer
from codegen.package import write
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES
from tests.codegen.targets.cpp.test_layers import operands
from tests.codegen.targets.jax.conftest import arrays, called, cotangent, reference
from tests.codegen.test_spec_generation import ONE_KIND

jax = pytest.importorskip("jax", reason="pip install affine-divergence[jax]")
pytest.importorskip("equinox", reason="pip install affine-divergence[jax]")
jnp = jax.numpy

pytestmark = pytest.mark.slow
KAPPA = 5.3
ALL = [*ONE_KIND, *((name, "plain") for name in list(FILES)[::4])]
SOME = [("scaled_affine", "norm_like"), ("tokens", "norm_like")]
maps = pytest.mark.parametrize(("name", "kind"), ALL, ids=["-".join(m) for m in ALL])
FAR = [("scaled_affine", "affine_like"), ("padded", "norm_like"), ("tokens", "affine_like"), ("bag", "norm_like")]
magnitudes = pytest.mark.parametrize(("name", "kind"), FAR, ids=["-".join(m) for m in FAR])
some = pytest.mark.parametrize(("name", "kind"), SOME, ids=["-".join(m) for m in SOME])
MODES = ("reverse", "forward")


def real(given):
    return tuple(k for k, a in enumerate(given) if jnp.issubdtype(a.dtype, jnp.floating))


@cache
def compiled(package, name, kind, mode):
    """Return the output and the gradients of the real arrays, compiled as one program."""
    function = called(package, name, kind, KAPPA)

    def both(*given):
        def of_real(*t):
            return function(*replaced(given, real(given), t), mode=mode)

        z, back = jax.vjp(of_real, *(given[k] for k in real(given)))
        return z, *back(cotangent(z))

    return jax.jit(both)


def distance(found, wanted):
    """Return the largest relative error of the arrays of a list."""
    pairs = [(np.asarray(a, np.float64), b.numpy()) for a, b in zip(found, wanted, strict=True)]
    return max(float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-300)) for a, b in pairs)


@maps
def test_values_and_gradients_are_those_of_torch(packages, name, kind):
    ours, theirs = packages(name)
    given = operands(name, torch.float32)
    wanted = reference(theirs, name, kind, KAPPA, given)
    for mode in MODES:
        found = compiled(ours, name, kind, mode)(*arrays(given))
        assert distance(found, wanted) < 5e-6, mode


@some
def test_compiled_mapped_and_twice_differentiated(packages, name, kind):
    ours, _ = packages(name)
    given = arrays(operands(name, torch.float32, batch=3))
    function, own = called(ours, name, kind, KAPPA), real(given)
    plain = compiled(ours, name, kind, "reverse")(*given)

    def loss(*t, mode="reverse"):
        return (function(*t, mode=mode) ** 2).sum()

    z, tangent = jax.jit(lambda p, t: jax.jvp(lambda *u: function(*replaced(given, own, u), mode="forward"), p, t))(
        *pairs(given, own)
    )
    by_rows = jnp.vdot(jnp.asarray(tangent), cotangent(z))
    assert np.isclose(by_rows, sum(jnp.vdot(d, t) for d, t in zip(plain[1:], pairs(given, own)[1], strict=True)), 1e-4)
    assert np.allclose(function(*given), plain[0], 1e-5, 1e-6)
    doubled = [jnp.stack([a, a]) for a in given]
    gradients = [jax.jit(jax.grad(lambda *t, m=m: loss(*t, mode=m), own)) for m in MODES]
    for gradient in gradients:
        twice = jax.vmap(gradient)(*doubled)
        assert all(np.allclose(a[1], b, 1e-4, 1e-5) for a, b in zip(twice, gradient(*given), strict=True))
    first, second = (
        jax.jit(jax.grad(lambda *t, d=d: sum((a**2).sum() for a in d(*t)), own))(*given) for d in gradients
    )
    assert all(np.allclose(a, b, 1e-3, 1e-3 * float(jnp.abs(b).max())) for a, b in zip(first, second, strict=True))


def replaced(given, own, real_ones):
    known = dict(zip(own, real_ones, strict=True))
    return [known.get(k, a) for k, a in enumerate(given)]


def pairs(given, own):
    return tuple(given[k] for k in own), tuple(jnp.cos(given[k] + k) for k in own)


@magnitudes
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e15, 1e30])
def test_single_precision_at_any_magnitude(packages, name, kind, scale):
    """Compared with float64, in which all squares are in range."""
    ours, theirs = packages(name)
    given = operands(name, torch.float32, scale=scale)
    wanted = reference(theirs, name, kind, KAPPA, given)
    for mode in MODES:
        found = compiled(ours, name, kind, mode)(*arrays(given))
        assert all(np.isfinite(a).all() for a in found)
        assert distance(found, wanted) < 1e-5, mode


@some
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits(packages, name, kind, dtype):
    ours, theirs = packages(name)
    given = operands(name, getattr(torch, dtype))
    wanted = reference(theirs, name, kind, KAPPA, given)
    found = compiled(ours, name, kind, "reverse")(*arrays(given, dtype))
    assert {str(a.dtype) for a in found} == {dtype}
    assert distance(found, wanted) < {"bfloat16": 2e-2, "float16": 3e-3}[dtype]


DAMAGE = {
    "a factor": ("affine_like.py", "2 * dE", "3 * dE"),
    "a sign of the tangent": ("affine_like.py", "f_t = -", "f_t = "),
    "a root": ("runtime/wide.py", "jnp.sqrt(mantissa) if below == 2", "mantissa if below == 2"),
    "units of a sum": ("runtime/wide.py", "in_units(operand, top)", "operand.mantissa"),
    "the range": ("runtime/wide.py", "moved - whole * below", "0 * moved"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_package_is_noticed(tmp_path, monkeypatch, packages, kind):
    path, old, new = DAMAGE[kind]
    name, home = "scaled_affine", "damaged_" + re.sub(r"\W", "_", kind)
    texts = build_layer(loads_spec(FILES[name].text), targets=("jax",))
    assert old in texts[f"kernels/jax/{path}"]
    texts[f"kernels/jax/{path}"] = texts[f"kernels/jax/{path}"].replace(old, new)
    write(texts, tmp_path / home)
    monkeypatch.syspath_prepend(str(tmp_path))
    damaged, worst = importlib.import_module(home), 0.0
    for scale in (1.0, 1e30):
        given = operands(name, torch.float32, scale=scale)
        wanted = reference(packages(name)[1], name, "affine_like", KAPPA, given)
        for mode in MODES:
            found = compiled(damaged, name, "affine_like", mode)(*arrays(given))
            worst = max(worst, distance(found, wanted)) if all(np.isfinite(a).all() for a in found) else np.inf
    assert worst > 1e-2
