"""The catalogue's maps of rows for JAX against the shipped package, and the equinox modules."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch

import affine_divergence
from codegen.compiler import build
from codegen.package import write

jax = pytest.importorskip("jax", reason="pip install affine-divergence[jax]")
eqx = pytest.importorskip("equinox", reason="pip install affine-divergence[jax]")
jnp = jax.numpy

pytestmark = pytest.mark.slow
CASES = {
    "AffineLike": ({}, {"kappa": 2.5}),
    "NormLike": ({}, {"bias": False}, {"kappa": 3.0, "center": True}),
}
cases = pytest.mark.parametrize(("name", "options"), [(n, o) for n, found in CASES.items() for o in found], ids=str)


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    write(build("jax_layers", targets=("jax",)), folder / "jax_layers")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("jax_layers")
    sys.path.remove(str(folder))
    for name in [m for m in sys.modules if m.split(".")[0] == "jax_layers"]:
        del sys.modules[name]


@cases
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_modules_compute_what_torchs_do(layers, name, options, mode):
    module = getattr(layers, name)(6, 4, key=jax.random.key(3), mode=mode, **options)
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


def test_first_values_are_variance_preserving_and_states_are_those_of_linear(layers):
    module = layers.AffineLike(64, 512, key=jax.random.key(0), kappa=4.0)
    assert abs(float(module.weight.std()) - 0.5) < 0.01 and not module.bias.any()
    linear = eqx.nn.Linear(64, 512, key=jax.random.key(1))
    moved = eqx.tree_at(lambda m: (m.weight, m.bias), module, (linear.weight, linear.bias))
    assert moved.weight.shape == module.weight.shape and moved.bias.shape == module.bias.shape


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
def test_errors_name_the_value_the_cause_and_the_fix(layers, call, error, words):
    with pytest.raises(error, match=words):
        call(layers.functional, jnp.ones((3, 3)))


def test_importing_the_package_loads_no_torch(layers):
    code = "import jax_layers, sys; assert 'torch' not in sys.modules; print(jax_layers.__all__)"
    folder = next(p for p in sys.path if "catalogue" in p)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
