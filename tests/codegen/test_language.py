"""Generated layers with features from recent papers, against the same layers written in torch."""

from __future__ import annotations

import importlib
import math
import sys

import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from affdiv import app
from codegen.compiler import build_layer
from codegen.package import write
from codegen.targets.base import NAMES
from derive.errors import UsageError
from derive.spec import loads_spec
from tests.codegen.layer_files import toml
from tests.marks import one_in
from verify.checks.layer_files.formula import Formula

SIZES = {"n": 4, "m": 3, "T": 5, "h": 2}


def _attention(x, Q, K, V):
    q, k, v = x @ Q.T, x @ K.T, x @ V.T
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _pointwise(x, W, b):
    u = x @ W.T + b
    named = (functional.gelu(u), functional.gelu(u, approximate="tanh"), functional.softplus(u), torch.erf(u))
    return sum(named) + torch.relu(u) + torch.sigmoid(u) * torch.clamp(u, -0.5, 0.5) + torch.sign(u) * u


LAYERS = {  # a file, and its reference
    "swiglu": (
        toml("swiglu", "n m", "x: n", "W: m n, V: m n", "z: m", "z[i] = silu(sum[j](W[i,j]*x[j]))*sum[j](V[i,j]*x[j])"),
        lambda x, W, V: functional.silu(x @ W.T) * (x @ V.T),
    ),
    "pointwise": (
        toml(
            "pointwise", "n m", "x: n", "W: m n, b: m", "z: m",
            "u[i] = sum[j](W[i,j]*x[j]) + b[i]",
            "z[i] = gelu(u[i]) + gelu_tanh(u[i]) + softplus(u[i]) + erf(u[i]) + relu(u[i])"
            " + sigmoid(u[i])*clip(u[i], -0.5, 0.5) + sign(u[i])*u[i]",
        ),
        _pointwise,
    ),
    "causal": (
        toml(
            "causal", "n m T", "x: T n", "Q: m n, K: m n, V: m n", "z: T m",
            "q[t,i] = sum[j](Q[i,j]*x[t,j])",
            "k[t,i] = sum[j](K[i,j]*x[t,j])",
            "v[t,i] = sum[j](V[i,j]*x[t,j])",
            "A[t,u] = softmax[u](sum[i](q[t,i]*k[u,i])/sqrt(m), u <= t)",
            "z[t,i] = sum[u](A[t,u]*v[u,i])",
        ),
        _attention,
    ),
    "router": (
        toml(
            "router", "n m h", "x: n", "G: h n, W: h m n", "z: m",
            "z[i] = sum[e](softmax[e](sum[j](G[e,j]*x[j]))*sum[j](W[e,i,j]*x[j]))",
        ),
        lambda x, G, W: torch.einsum("se,eij,sj->si", (x @ G.T).softmax(-1), W, x),
    ),
    "reduced": (
        toml(
            "reduced", "n m h", "x: n", "W: m h n", "z: m",
            "u[i,k] = sum[j](W[i,k,j]*x[j])",
            "z[i] = max[k](u[i,k]) - min[k](u[i,k]) + logsumexp[k](u[i,k]) + norm[k](u[i,k])",
        ),
        lambda x, W: _reduced(torch.einsum("ikj,sj->sik", W, x)),
    ),
    "normalised": (
        toml(
            "normalised", "n m", "x: n", "W: m n", "z: m",
            "u[i] = sum[j](W[i,j]*x[j])",
            "mu = mean[i](u[i])",
            "v = var[i](u[i])",
            "z[i] = (u[i] - mu)/sqrt(v + 0.1)",
        ),
        lambda x, W: functional.layer_norm(x @ W.T, (3,), eps=0.1),
    ),
    "running": (
        toml("running", "n T", "x: T n", "w: n", "z: T", "z[t] = cumsum[t](tanh(sum[j](w[j]*x[t,j])))"),
        lambda x, w: torch.tanh(x @ w).cumsum(-1),
    ),
    "banded": (
        toml(
            "banded", "n T", "x: T n", "w: n, c: n", "z: T",
            "z[t] = max[u](sum[j](w[j]*x[u,j]), 0 <= t - u < 2) + where(t == 0, 1, 2)*sum[j](c[j]*x[t,j])",
        ),
        lambda x, w, c: _banded(x @ w) + torch.tensor([1.0, 2, 2, 2, 2], dtype=x.dtype) * (x @ c),
    ),
    "rotated": (
        toml(
            "rotated", "n T", "x: T n", "Q: 4 n", "z: T 4",
            "q[t,a] = sum[j](Q[a,j]*x[t,j])",
            "z[t,a] = cos(q[t,a]) + where(a < 2, -1, 1)*q[t,(a + 2) % 4]*sin(q[t,a // 2])",
        ),
        lambda x, Q: _rotated(x @ Q.T),
    ),
    "wrapped": (
        toml(
            "wrapped", "n T", "x: n T", "W: n 3, w: 2", "z: T",
            "u[p:T] = sum[a,k](W[a,k]*x[a,(p + k - 1) % T])",
            "z[p] = elu(u[p]) + sum[k](w[k]*u[clip(p - k, 0, T - 1)])",
        ),
        lambda x, W, w: _wrapped(x, W, w),
    ),
    "held": (
        toml(
            "held", "n m", "x: n", "W: m n", "z: m",
            "u[i] = sum[j](W[i,j]*x[j])",
            "z[i] = u[i]/(1 + stop_gradient(norm[k](u[k])))",
        ),
        lambda x, W: x @ W.T / (1 + (x @ W.T).norm(dim=-1, keepdim=True).detach()),
    ),
    "numbered": (
        toml(
            "numbered", "n T", "x: T n", "w: n", "z: T",
            "u[t] = sum[j](w[j]*x[t,j])",
            "z[t] = sum[u0](u[u0]*0.9**(t - u0), u0 <= t)/(1 + t // 2) + (t % 3)*u[t]",
        ),
        lambda x, w: _numbered(x @ w),
    ),
    "stepped": (
        toml(
            "stepped", "n m", "x: n", "W: m n, a: m", "z: m",
            "u[i] = sum[j](W[i,j]*x[j])",
            "z[i] = where(u[i] > 0, u[i], a[i]*u[i]) + where(u[i] < 1 and i > 0, u[i]**2, 0)",
        ),
        lambda x, W, a: _stepped(x @ W.T, a),
    ),
    "multiplied": (
        toml(
            "multiplied", "n m", "x: n", "W: m n", "z: m",
            "z[i] = prod[j](W[i,j]*x[j]) + prod[j](x[j], j <= i)*W[i,0]",
        ),
        lambda x, W: (W * x[:, None]).prod(-1) + x.cumprod(-1)[:, :3] * W[:, 0],
    ),
}  # fmt: skip
layers = pytest.mark.parametrize("name", LAYERS)


def _numbered(u):
    place = torch.arange(5)
    decay = (0.9 ** (place[:, None] - place).double()).tril()
    return (decay @ u.mT).mT / (1 + place // 2) + place % 3 * u


def _stepped(u, a):
    return torch.where(u > 0, u, a * u) + torch.where((u < 1) & (torch.arange(3) > 0), u.square(), 0.0)


def _rotated(q):
    turned = torch.cat([-q[..., 2:], q[..., :2]], -1)
    return torch.cos(q) + turned * torch.sin(q[..., [0, 0, 1, 1]])


def _wrapped(x, W, w):
    u = functional.conv1d(functional.pad(x, (1, 1), mode="circular"), W[None])[:, 0]
    return functional.elu(u) + w[0] * u + w[1] * torch.cat([u[:, :1], u[:, :-1]], 1)


def _reduced(u):
    return u.amax(-1) - u.amin(-1) + u.logsumexp(-1) + u.norm(dim=-1)


def _banded(scores):
    return torch.maximum(scores, functional.pad(scores[:, :-1], (1, 0), value=-math.inf))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    sys.path.insert(0, str(folder))

    def load(name):
        if not (folder / f"spoken_{name}").exists():
            write(build_layer(loads_spec(LAYERS[name][0]), targets=("torch",)), folder / f"spoken_{name}")
        return importlib.import_module(f"spoken_{name}")

    yield load
    sys.path.remove(str(folder))
    for name in [m for m in sys.modules if m.startswith("spoken_")]:
        del sys.modules[name]


def made(package, name):
    torch.manual_seed(3)
    known, module = loads_spec(LAYERS[name][0]), package(name)
    plain = getattr(module, name.capitalize())
    free = {str(s) for p in known.parameters for a in p.axes for s in a.free_symbols}
    layer = plain(*(SIZES[str(s)] for s in known.sizes if str(s) in free), dtype=torch.float64)
    shape = [SIZES[str(a)] for a in known.inputs[0].axes[1:]]
    return layer, torch.randn(6, *shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", one_in(2, LAYERS))
def test_a_layer_and_its_gradients_are_those_of_its_twin(package, name):
    layer, x = made(package, name)
    twin = LAYERS[name][1](x, *layer.parameters())
    found = layer(x)
    torch.testing.assert_close(found, twin, rtol=1e-12, atol=1e-12)
    given = [x, *layer.parameters()]
    wanted = torch.autograd.grad(twin.sin().sum(), given)
    torch.testing.assert_close(torch.autograd.grad(found.sin().sum(), given), wanted, rtol=1e-11, atol=1e-12)


@layers
def test_its_self_factor_is_that_of_automatic_differentiation(package, name):
    layer, x = made(package, name)
    values = tuple(layer.parameters())
    slopes = torch.func.jacrev(lambda *w: LAYERS[name][1](x, *w), argnums=tuple(range(len(values))))(*values)
    wanted = sum(s.flatten(layer(x).dim()).square().sum(-1) for s in slopes)
    found = package(name).self_factor(layer, x)
    if found.dim() > wanted.dim():
        found = torch.diagonal(found, dim1=-2, dim2=-1)
    elif found.dim() < wanted.dim():
        found = found[..., None].expand_as(wanted)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@layers
def test_every_target_prints_it(name):
    for target in NAMES:
        assert build_layer(loads_spec(LAYERS[name][0]), targets=tuple({"torch", target}), insist=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pointwise", "causal", "reduced", "banded", "rotated", "wrapped", "held"])
def test_kernels_in_c_do_the_same(tmp_path, monkeypatch, name):
    monkeypatch.syspath_prepend(tmp_path)
    write(build_layer(loads_spec(LAYERS[name][0]), targets=("torch", "cpp")), tmp_path / f"compiled_{name}")
    layer, x = made(lambda name: importlib.import_module(f"compiled_{name}"), name)
    layer.backend = "cpp"
    twin, found, given = LAYERS[name][1](x, *layer.parameters()), layer(x), [x, *layer.parameters()]
    torch.testing.assert_close(found, twin, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(twin.sin().sum(), given)
    torch.testing.assert_close(torch.autograd.grad(found.sin().sum(), given), wanted, rtol=1e-11, atol=1e-12)


def test_a_product_has_its_gradient_at_zeros(package):
    layer, x = made(package, "multiplied")
    for zeros in (1, 2):
        x = x.detach().clone()
        x[:, :zeros] = 0
        x.requires_grad_()
        twin, found = LAYERS["multiplied"][1](x, *layer.parameters()), layer(x)
        torch.testing.assert_close(found, twin, rtol=1e-12, atol=1e-12)
        given = [x, *layer.parameters()]
        wanted = torch.autograd.grad(twin.sin().sum(), given)
        torch.testing.assert_close(torch.autograd.grad(found.sin().sum(), given), wanted, rtol=1e-11, atol=1e-12)


def test_a_quotient_that_may_be_negative_has_no_code():
    with pytest.raises(UsageError, match="it may be negative; add a multiple"):
        build_layer(
            loads_spec(toml("late", "n T", "x: T n", "w: n", "z: T", "z[t] = ((t - 1) // 2)*sum[j](w[j]*x[t,j])"))
        )


@layers
def test_the_reference_of_verify_is_the_twin(name):
    known = loads_spec(LAYERS[name][0])
    generator = torch.Generator().manual_seed(1)
    sizes = {**SIZES, "B": 3}

    def shape(axes):
        return [int(a.subs({s: sizes[str(s)] for s in a.free_symbols})) for a in axes]

    shapes = {t.name: shape(t.axes) for t in (*known.inputs, *known.parameters)}
    tensors = {n: torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}
    found = Formula(known, tensors, {}, sizes).output()
    torch.testing.assert_close(found, LAYERS[name][1](*tensors.values()), rtol=1e-12, atol=1e-12)


def test_each_output_of_several_has_a_package_of_its_own(tmp_path, monkeypatch):
    text = toml("pair", "n m", "x: n", "W: m n, V: m n", "z: m", "z[i] = sum[j](W[i,j]*x[j])")
    shared = 'definitions = ["q = norm[j](x[j])"]\n'
    formulas = 'formulas = ["z[i] = sum[j](W[i,j]*x[j])/q", "y[i] = tanh(sum[j](V[i,j]*x[j]))"]\n'
    file = tmp_path / "pair.toml"
    file.write_text(text.partition("[output]")[0] + f'[output]\nz = ["m"]\ny = ["m"]\n{shared}{formulas}')
    done = CliRunner().invoke(app, ["generate", "--spec", str(file), "--out", str(tmp_path), "--targets", "torch"])
    assert done.exit_code == 0, done.output
    monkeypatch.syspath_prepend(tmp_path)
    x = torch.randn(5, 4, dtype=torch.float64)
    for name, twin in (("PairZ", lambda u: u / x.norm(dim=-1, keepdim=True)), ("PairY", torch.tanh)):
        module = importlib.import_module(f"pair_{name[-1].lower()}")
        layer = getattr(module, name)(4, 3, dtype=torch.float64)
        (weight,) = layer.parameters()
        torch.testing.assert_close(layer(x), twin(x @ weight.T), rtol=1e-12, atol=1e-12)
    assert CliRunner().invoke(app, ["generate", "--spec", str(file), "--out", str(tmp_path), "--check"]).exit_code == 1
