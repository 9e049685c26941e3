"""The catalogue's maps of rows and tokens for JAX against the shipped package, and the equinox modules."""

from __future__ import annotations

import importlib
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

import affine_divergence
from affine_divergence.kernels.torch import unit, value_path
from codegen.compiler import build
from codegen.package import write
from derive.formula import parse_angle

jax = pytest.importorskip("jax", reason="pip install affine-divergence[jax]")
eqx = pytest.importorskip("equinox", reason="pip install affine-divergence[jax]")
jnp = jax.numpy

pytestmark = pytest.mark.slow
CASES = {
    "AffineLike": ({}, {"kappa": 2.5}),
    "NormLike": ({}, {"bias": False}, {"kappa": 3.0, "center": True}),
}
cases = pytest.mark.parametrize(("name", "options"), [(n, o) for n, found in CASES.items() for o in found], ids=str)


@cases
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_modules_compute_what_torchs_do(catalogue, name, options, mode):
    module = getattr(catalogue, name)(6, 4, key=jax.random.key(3), mode=mode, **options)
    twin = getattr(affine_divergence, name)(6, 4, dtype=torch.float64, **options)
    with torch.no_grad():
        twin.weight.copy_(torch.tensor(np.asarray(module.weight, np.float64)))
    x = np.random.default_rng(0).normal(size=(2, 3, 6))
    given = torch.tensor(x, requires_grad=True)
    z = twin(given)
    (z**2).sum().backward()
    ours = module(jnp.asarray(x, jnp.float32))
    assert np.allclose(ours, z.detach(), 1e-5, 1e-6) and module(jnp.ones(6)).shape == (4,)
    inner = eqx.filter_jit(eqx.filter_grad(lambda m, x: (m(x) ** 2).sum()))(module, jnp.asarray(x, jnp.float32))
    assert np.allclose(inner.weight, twin.weight.grad, 1e-4, 1e-5)
    if module.bias is not None:
        assert np.allclose(inner.bias, twin.bias.grad, 1e-4, 1e-5)


def test_first_values_are_variance_preserving_and_states_are_those_of_linear(catalogue):
    module = catalogue.AffineLike(64, 512, key=jax.random.key(0), kappa=4.0)
    assert abs(float(module.weight.std()) - 0.5) < 0.01 and not module.bias.any()
    linear = eqx.nn.Linear(64, 512, key=jax.random.key(1))
    moved = eqx.tree_at(lambda m: (m.weight, m.bias), module, (linear.weight, linear.bias))
    assert moved.weight.shape == module.weight.shape and moved.bias.shape == module.bias.shape


def gradients(function, given):
    """Return the output and the gradients for a cotangent 0, 1, 2, .."""

    @jax.jit
    def both(*given):
        z, back = jax.vjp(function, *given)
        return z, *back(jnp.linspace(-1, 2, z.size, dtype=jnp.float32).reshape(z.shape).astype(z.dtype))

    return [np.asarray(a, np.float64) for a in both(*given)]


def references(function, given):
    """Return the same by torch, in float64."""
    leaves = [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in given]
    z = function(*leaves)
    g = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z)
    return [t.detach().numpy() for t in (z, *torch.autograd.grad(z, leaves, g))]


def drawn(*shapes, scale=1.0, dtype=jnp.float32):
    """Return arrays; the first one has an ordinary first sample, and others of the given magnitude."""
    draw = np.random.default_rng(7)
    found = [draw.normal(size=shape).clip(-3, 3) for shape in shapes]
    found[0][1:] *= scale
    return [jnp.asarray(a, dtype) for a in found]


def distance(found, wanted):
    return max(float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-300)) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ["affine_like", "norm_like"])
@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e38])
def test_rows_of_any_magnitude_beside_an_ordinary_one(catalogue, name, scale):
    """For rows with entries up to the end of float32 the gradient underflows; everything else is right."""
    given = drawn((5, 7), (3, 7), (3,), scale=scale)
    for mode in ("reverse", "forward"):
        found = gradients(partial(getattr(catalogue.functional, name), mode=mode), given)
        wanted = references(getattr(affine_divergence.functional, name), given)
        assert all(np.isfinite(a).all() for a in found)
        found[1], wanted[1] = found[1][:1], wanted[1][:1]
        assert distance(found, wanted) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_lengths_and_the_value_path_are_torchs(catalogue, dtype, scale):
    scale, bound = (1.0 if dtype == "float16" else scale), {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}[dtype]
    rows = drawn((3, 4, 5), scale=scale, dtype=dtype)
    mixed = drawn((2, 3, 4, 5), (3, 2, 5), (3, 2), scale=scale, dtype=dtype)
    for mode in ("reverse", "forward") if dtype == "float32" else ("reverse",):
        found = gradients(partial(catalogue.functional.unit_length, mode=mode), rows)
        assert distance(found, references(lambda x: unit.portable(x)[0], rows)) < bound
        found = gradients(partial(catalogue.functional.value_path, mode=mode, kappa=2.0), mixed)
        assert distance(found, references(lambda x, W, b: value_path.corrected(x, W, b, 2.0), mixed)) < bound


def test_a_row_of_zeros_stays_zero(catalogue):
    z, slope = gradients(catalogue.functional.unit_length, [jnp.zeros((2, 3))])
    assert not z.any() and not slope.any()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_member_at_an_angle_is_torchs(at_angle, scale):
    ours, theirs = at_angle
    given = drawn((5, 7), (3, 7), (3,), scale=scale)
    for mode in ("reverse", "forward"):
        found = gradients(partial(ours.functional.angle_like, mode=mode), given)
        assert distance(found, references(theirs.functional.angle_like, given)) < 1e-5


@pytest.fixture(scope="module")
def at_angle(tmp_path_factory):
    """Packages for JAX and torch with the family's member at an angle."""
    folder, angle = tmp_path_factory.mktemp("angle"), parse_angle("atan(r)/2")
    sys.path.insert(0, str(folder))
    for target in ("jax", "torch"):
        write(build(f"{target}_angle", targets=(target,), angle=angle), folder / f"{target}_angle")
    yield tuple(importlib.import_module(f"{target}_angle") for target in ("jax", "torch"))
    sys.path.remove(str(folder))
    for name in [m for m in sys.modules if m.split(".")[0] in ("jax_angle", "torch_angle")]:
        del sys.modules[name]


@pytest.mark.parametrize("options", [{}, {"value_path": True}, {"qk_norm": True}], ids=str)
def test_attention_is_torchs(catalogue, options):
    """The same parameters, in torch's layout, give the same outputs; a mask excludes tokens."""
    module = catalogue.AffineLikeMultiheadAttention(2, 4, key=jax.random.key(2), **options)
    twin = affine_divergence.AffineLikeMultiheadAttention(4, 2, batch_first=True, dtype=torch.float64, **options)
    parts = [module.query_proj, module.key_proj, module.value_proj]
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.tensor(np.concatenate([p.weight for p in parts])))
        twin.out_proj.weight.copy_(torch.tensor(np.asarray(module.output_proj.weight)))
    x = np.random.default_rng(3).normal(size=(3, 5, 4)).astype(np.float32)
    seen, tokens = np.tril(np.ones((5, 5), bool)), torch.tensor(x).double()
    wanted, _ = twin(tokens, tokens, tokens, attn_mask=torch.tensor(~seen))
    found = eqx.filter_jit(module)(jnp.asarray(x), jnp.asarray(x), jnp.asarray(x), jnp.asarray(seen))
    assert np.allclose(found, wanted.detach(), 1e-4, 1e-5)
    inner = eqx.filter_jit(eqx.filter_grad(lambda m, x: (m(x, x, x) ** 2).sum()))(module, jnp.asarray(x))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(inner))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f, x: f.affine_like(x, x, None), ValueError, "bias is None; the non-normalising"),
        (lambda f, x: f.norm_like(x, x[0]), ValueError, r"weight has shape \(3,\); give it the axes \(m, n\)"),
        (lambda f, x: f.norm_like(x, x.astype("bfloat16")), TypeError, "the types differ"),
        (lambda f, x: f.norm_like(x, x, kappa=-1.0), ValueError, "kappa is -1.0; give a finite number above 0"),
        (lambda f, x: f.norm_like(x, x, kappa=x), TypeError, "it is a setting and not an array"),
        (lambda f, x: f.norm_like(x, x, mode="both"), ValueError, "mode is 'both'; give one of reverse, forward"),
        (lambda f, x: f.norm_like([1.0], x), TypeError, "x is a list; give an array"),
        (lambda f, x: f.norm_like(x.astype(int), x), TypeError, "give real floating-point numbers"),
    ],
)
def test_errors_name_the_value_the_cause_and_the_fix(catalogue, call, error, words):
    with pytest.raises(error, match=words):
        call(catalogue.functional, jnp.ones((3, 3)))


def test_the_package_is_linted_and_typed(catalogue):
    """By the default rules of users' tools, undefined names and likely mistakes included."""
    folder = next(p for p in sys.path if "catalogue" in p)
    ruff = ["ruff", "check", "--isolated", "--select", "F,E,B,UP", "--ignore", "E501", "jax_layers"]
    for command in (ruff, ["mypy", "--strict", "--cache-dir", "mypy_cache", "jax_layers"]):
        done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_loads_no_torch(catalogue):
    code = "import jax_layers, sys; assert 'torch' not in sys.modules; print(jax_layers.__all__)"
    folder = next(p for p in sys.path if "catalogue" in p)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
