"""Packages for JAX, and the same layers' packages for torch, which are the reference in float64."""

from __future__ import annotations

import importlib
import inspect
import sys

import pytest
import torch

from codegen.compiler import build, build_layer
from codegen.package import write
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory):
    """The package of the catalogue, written once per test process."""
    folder = tmp_path_factory.mktemp("catalogue")
    write(build("jax_layers", targets=("jax",)), folder / "jax_layers")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("jax_layers")
    sys.path.remove(str(folder))
    for name in [m for m in sys.modules if m.split(".")[0] == "jax_layers"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Return a function that imports a layer's packages for JAX and torch, each written once."""
    folder = tmp_path_factory.mktemp("jax")
    sys.path.insert(0, str(folder))

    def load(name):
        for target in ("jax", "torch"):
            if not (folder / f"for_{target}_{name}").exists():
                write(build_layer(loads_spec(FILES[name].text), targets=(target,)), folder / f"for_{target}_{name}")
        return tuple(importlib.import_module(f"for_{target}_{name}") for target in ("jax", "torch"))

    yield load
    sys.path.remove(str(folder))
    for name in [m for m in sys.modules if m.split(".")[0].startswith(("for_jax_", "for_torch_"))]:
        del sys.modules[name]


def arrays(given, dtype=None):
    """Return torch tensors as JAX arrays; real ones in a type."""
    import jax.numpy as jnp  # imported here, since this file is also loaded without JAX, when the tests are skipped

    found = [jnp.asarray(t.double().numpy() if t.is_floating_point() else t.int().numpy()) for t in given]
    return [a.astype(dtype or jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a for a in found]


def cotangent(z):
    """Return a gradient with distinct entries, in the shape and type of an output."""
    import jax.numpy as jnp

    return jnp.linspace(-1, 2, z.size, dtype=jnp.float32).reshape(z.shape).astype(z.dtype)


def called(package, name, kind, kappa):
    """Return the function of a map with its settings filled in; in JAX it takes ``mode``."""
    function = getattr(package.functional, f"{name}_{kind}" if kind != "plain" else name)
    keywords = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    settings = {k: FILES[name].sizes[k] for k in keywords if k not in ("backend", "mode")}
    if kind != "plain":
        settings["kappa"] = kappa
    return lambda *tensors, **more: function(*tensors, **settings, **more)


def reference(package, name, kind, kappa, given):
    """Return the output and the gradients for a cotangent, by torch in float64."""
    leaves = [t.double().requires_grad_() if t.is_floating_point() else t for t in given]
    z = called(package, name, kind, kappa)(*leaves)
    g = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z)
    return [t.detach() for t in (z, *torch.autograd.grad(z, [t for t in leaves if t.requires_grad], g))]
