"""The plain layer from a file, and its self factor, against automatic differentiation."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch

from codegen.compiler import build_layer
from codegen.package import write
from derive.spec import loads_spec
from derive.update import effective_update
from tests.codegen.layer_files import toml

SIZES = {"n": 4, "m": 3, "r": 2, "c": 2, "l": 6, "o": 3, "k": 2, "p": 5}
GATED = toml(
    "gated_unit",
    "n m",
    "x: n",
    "U: m n, V: m n",
    "z: m",
    "u[i] = sum[j](U[i, j]*x[j])",
    "v[i] = sum[j](V[i, j]*x[j])",
    "z[i] = u[i]/(1 + exp(-v[i]))",
)
LAYERS = {  # a file, its reference in torch, the shape of its self factor, and whether a map cancels its divergence
    "gated_unit": (GATED, lambda x, U, V: (x @ U.T) * torch.sigmoid(x @ V.T), "diagonal", False),
    "low_rank_unit": (
        toml("low_rank_unit", "n r m", "x: n", "A: r n, U: m r", "z: m", "z[i] = sum[k](U[i, k]*sum[j](A[k, j]*x[j]))"),
        lambda x, A, U: x @ A.T @ U.T,
        "full",
        False,
    ),
    "gain": (
        toml("gain", "n", "x: n", "w: n", "z: n", "E = sum[j](x[j]**2)", "z[i] = w[i]*x[i]/sqrt(E)"),
        lambda x, w: w * x / x.norm(dim=-1, keepdim=True),
        "diagonal",
        True,
    ),
    "bilinear_unit": (
        toml("bilinear_unit", "n m", "x: n", "W: m n n", "z: m", "z[i] = sum[j, k](W[i, j, k]*x[j]*x[k])"),
        lambda x, W: torch.einsum("mjk,sj,sk->sm", W, x, x),
        "isotropic",
        True,
    ),
    "squashed": (
        toml(
            "squashed", "c l o k p", "x: c l", "W: o c k", "z: o p", "z[q, r] = tanh(sum[a, h](W[q, a, h]*x[a, r + h]))"
        ),
        lambda x, W: torch.tanh(torch.nn.functional.conv1d(x, W)),
        "diagonal",
        False,
    ),
    "plain_affine": (
        toml("plain_affine", "n m", "x: n", "b: m, W: m n", "z: m", "z[i] = 2*sum[j](W[i, j]*x[j]) + b[i]"),
        lambda x, b, W: 2 * x @ W.T + b,
        "isotropic",
        True,
    ),
}
layers = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    sys.path.insert(0, str(folder))

    def load(name):
        if not (folder / f"made_{name}").exists():
            write(build_layer(loads_spec(LAYERS[name][0])), folder / f"made_{name}")
        return importlib.import_module(f"made_{name}")

    yield load
    sys.path.remove(str(folder))
    for name in [m for m in sys.modules if m.startswith("made_")]:
        del sys.modules[name]


def made(package, name, dtype=torch.float64):
    """The plain module, and an input."""
    torch.manual_seed(2)
    known, module = loads_spec(LAYERS[name][0]), package(name)
    plain = getattr(module, "".join(word.capitalize() for word in name.split("_")))
    used = [str(s) for s in known.sizes if any(s in a.free_symbols for p in known.parameters for a in p.axes)]
    free = {k: SIZES[k] for k in ("p",) if name == "squashed"}
    layer = plain(*(SIZES[s] for s in used), dtype=dtype, **free)
    shape = [int(a.subs({s: SIZES[str(s)] for s in a.free_symbols})) for a in known.inputs[0].axes[1:]]
    return layer, torch.randn(5, *shape, dtype=dtype, requires_grad=True)


def jacobian_products(layer, x):
    """Return the sum over the parameters of J J^T, where J is the output's derivative with respect to one of them."""
    names, values = zip(*layer.named_parameters(), strict=True)

    def output(*parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    slopes = torch.func.jacrev(output, argnums=tuple(range(len(values))))(*values)
    z = layer(x)
    return sum(s.reshape(z.numel(), -1) @ s.reshape(z.numel(), -1).T for s in slopes).reshape(*z.shape, *z.shape)


def of_each_sample(products, shape):
    pattern = "sisj->sij" if products.dim() == 4 else "siqsjq->sqij"
    full = torch.einsum(pattern, products)
    if shape == "full":
        return full
    return full[..., 0, 0] if shape == "isotropic" else torch.diagonal(full, dim1=-2, dim2=-1)


@layers
def test_a_plain_layer_computes_its_formula(package, name):
    layer, x = made(package, name)
    torch.testing.assert_close(layer(x), LAYERS[name][1](x, *layer.parameters()))


@layers
def test_the_self_factor_is_what_the_parameters_carry(package, name):
    layer, x = made(package, name)
    _, _, shape, _ = LAYERS[name]
    assert effective_update(loads_spec(LAYERS[name][0])).self_factor.shape == shape
    found = package(name).self_factor(layer, x)
    layer.backend = "torch"
    torch.testing.assert_close(found, of_each_sample(jacobian_products(layer, x), shape).detach())
    assert not found.requires_grad
    lead = package(name).self_factor(layer, x.detach()[:4].unflatten(0, (2, 2)))
    torch.testing.assert_close(lead.flatten(0, 1), found[:4])


@layers
def test_gradients_of_a_plain_layer(package, name):
    layer, x = made(package, name)
    wanted = torch.autograd.grad(LAYERS[name][1](x, *layer.parameters()).sin().sum(), [x, *layer.parameters()])
    for backend in ("torch", "cpp"):
        layer.backend = backend
        found = torch.autograd.grad(layer(x).sin().sum(), [x, *layer.parameters()])
        torch.testing.assert_close(found, wanted)


@layers
def test_a_corrected_layer_has_the_factor_kappa(package, name):
    module, layer, x = package(name), *made(package, name)
    maps = json.loads(build_layer(loads_spec(LAYERS[name][0]))["manifest.json"])
    corrected = list(maps["classes"])
    assert bool(corrected) == LAYERS[name][3]
    assert corrected or maps["refused"]
    for word in corrected:
        sizes = [getattr(layer, s) for s in ("n", "m") if hasattr(layer, s)]
        other = getattr(module, word)(*sizes, dtype=torch.float64, kappa=1.7)
        found = module.self_factor(other, x)
        torch.testing.assert_close(found, torch.full_like(found, 1.7), rtol=1e-14, atol=0)


def test_what_is_no_layer_of_the_package_is_refused(package):
    with pytest.raises(TypeError, match=r"give one of .*GatedUnit"):
        package("gated_unit").self_factor(torch.nn.Linear(4, 3), torch.zeros(2, 4))


def test_the_self_factor_has_at_least_single_precision(package):
    layer, x = made(package, "plain_affine", torch.bfloat16)
    assert package("plain_affine").self_factor(layer, x).dtype == torch.float32


@layers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_a_plain_layer_in_narrow_types(package, name, dtype, backend):
    layer, x = made(package, name, dtype)
    layer.backend = backend
    z = layer(x)
    found = [z, *torch.autograd.grad(z.float().sin().sum(), [x, *layer.parameters()])]
    exact, inputs = layer.double(), x.detach().double().requires_grad_()
    exact.backend = "torch"
    wanted = exact(inputs)
    wanted = [wanted, *torch.autograd.grad(wanted.sin().sum(), [inputs, *exact.parameters()])]
    assert all(t.dtype == dtype for t in found)
    bound = 200 * torch.finfo(dtype).eps
    assert all((a.double() - b).norm() <= bound * (1 + b.norm()) for a, b in zip(found, wanted, strict=True))


def test_the_manifest_holds_the_file_that_a_package_came_from(tmp_path):
    import affdiv

    file = tmp_path / "gated.toml"
    file.write_text(GATED)
    assert affdiv.run(["generate", "--spec", str(file), "--out", str(tmp_path), "--package", "own_gated"]) == 0
    assert json.loads((tmp_path / "own_gated" / "manifest.json").read_text())["spec"] == GATED
