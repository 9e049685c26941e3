"""The C++ kernels as operators: schemas, derivatives, and graphs that call them."""

import importlib
import pkgutil

import pytest
import torch
from torch.library import opcheck

import affine_divergence as ad
from affine_divergence.kernels import cpp as kernels
from affine_divergence.kernels.cpp import affine_like as cpp_affine_like
from affine_divergence.kernels.cpp import patch_affine_like as cpp_patch_affine_like
from affine_divergence.kernels.cpp.runtime import launch
from affine_divergence.runtime import backends, operands, operators, rows
from affine_divergence.runtime.patch_places import as_numbers
from affine_divergence.runtime.patches import Geometry

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own
ROWS = ("affine_like", "norm_like", "norm_like_without_bias")
PATCHES = ("patch_affine_like", "patch_norm_like", "patch_norm_like_without_bias")
NUMBERS = as_numbers(Geometry((3, 3), (1, 2), (1, 0), (1, 1), (0, 0)))
KAPPA = 1.7


def pair(name):
    module = importlib.import_module(f"affine_divergence.kernels.cpp.{name}")
    space = getattr(torch.ops, operators.LIBRARY.ns)
    return module.OPERATOR, getattr(space, f"{module.OPERATOR._schema.name.partition('::')[2]}_backward").default


def given(name, dtype=torch.float32, last=False, samples=40, features=32):
    """Return the tensors and settings of a map; with ``last``, channels-last images."""
    torch.manual_seed(0)
    rows = ((samples, features), (8, features), (8,))
    shapes = ((4, 1, 4, 9, 8), (1, 6, 4, 3, 3), (1, 6, 1, 1)) if name in PATCHES else rows
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes[: 2 if name.endswith("bias") else 3]]
    if last:
        tensors[0] = tensors[0].movedim(2, -1).contiguous().movedim(-1, 2)
    settings = (KAPPA, NUMBERS, True) if name in PATCHES else (KAPPA,)
    return [t.requires_grad_() for t in tensors], settings


def backward_call(name, tensors, settings, wanted):
    """Return the arguments of the backward operator, and the operator."""
    forward, backward = pair(name)
    z, f, *_ = forward(*tensors, *settings)
    g = torch.randn(z.shape, dtype=z.dtype).requires_grad_()
    if name in ROWS:
        return backward, (g, *tensors, f.detach(), KAPPA, wanted)
    read = tensors[: sum(a.name in ("x_", "W_", "b_") for a in backward._schema.arguments)]
    return backward, (g, *read, f.detach(), None, KAPPA, NUMBERS, wanted)


def keeps_its_word(operator, arguments):
    found = opcheck(operator, arguments)
    assert set(found.values()) == {"SUCCESS"} and len(found) == 4


@pytest.mark.parametrize(
    "name", ["norm_like", *(pytest.param(n, marks=pytest.mark.slow) for n in (ROWS[-1], PATCHES[-1]))]
)
def test_every_operator_keeps_its_word(name):
    """The four utilities: schema, autograd's registration, tracing without values, compiling with dynamic shapes."""
    tensors, settings = given(name, last=name in PATCHES)
    keeps_its_word(pair(name)[0], (*tensors, *settings))
    for wanted in ([True, True, True], [False, True, False]):
        keeps_its_word(*backward_call(name, tensors, settings, wanted[: len(tensors)]))


def test_no_other_operator_is_registered():
    modules = [
        f"{kernels.__name__}.{found.name}" for found in pkgutil.iter_modules(kernels.__path__) if not found.ispkg
    ]
    maps = [module.OPERATOR for module in map(importlib.import_module, modules) if hasattr(module, "OPERATOR")]
    wanted = {f"{m._schema.name.partition('::')[2]}{word}" for m in maps for word in ("", "_backward")}
    assert wanted >= {f"cpp_{name}" for name in ROWS + PATCHES}
    names = {n.partition("::")[2] for n in (s.name for s in torch._C._jit_get_all_schemas()) if "divergence::cpp" in n}
    assert names == wanted


@pytest.mark.parametrize("name", ["affine_like", "norm_like_without_bias", "patch_norm_like"])
def test_operators_are_differentiated_twice(name):
    tensors, settings = given(name, torch.float64)
    forward = lambda *t: pair(name)[0](*t, *settings)[0]  # noqa: E731
    assert torch.autograd.gradcheck(forward, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(forward, tensors, fast_mode=True)


def gradients_are_differentiated(backward, **sizes):
    """Check the derivatives of a gradient operator, which reads the scale of its input, against differences."""
    tensors, _ = given("affine_like", torch.float64, **sizes)

    def function(g, *tensors):
        f = pair("affine_like")[0](*tensors, KAPPA)[1].detach()
        return backward(g, *tensors, f, KAPPA, [True] * 3)

    g = torch.randn(len(tensors[0]), 8, dtype=torch.float64, requires_grad=True)
    return torch.autograd.gradcheck(function, (g, *tensors), fast_mode=True) and torch.autograd.gradgradcheck(
        function, (g, *tensors), fast_mode=True
    )


def test_gradients_are_differentiated_twice():
    assert gradients_are_differentiated(pair("affine_like")[1])


def test_a_wrong_derivative_of_gradients_is_noticed():
    backward = pair("affine_like")[1]
    plain = operators.Passes(cpp_affine_like.plain.AffineLike, cpp_affine_like.plain.AffineLike, 3, 1)
    schema = str(backward._schema)
    schema = schema[schema.index("(") :]
    own = operators.register("test_wrong_derivative", schema, lambda *a: backward(*a), plain.backward_like)
    operators.complete_gradients(own, lambda *a: [2 * d for d in plain.gradients(*a)], 4)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradients_are_differentiated(own, samples=2, features=3)  # torch's message computes the whole Jacobian


def test_an_axis_more_is_a_loop():
    tensors, _ = given("norm_like", torch.float64)
    x = torch.randn(3, *tensors[0].shape, dtype=torch.float64)
    forward = lambda x: pair("norm_like")[0](x, *tensors[1:], KAPPA)[0]  # noqa: E731
    torch.testing.assert_close(torch.vmap(forward)(x), torch.stack([forward(one) for one in x]))


class Counted:
    """Compiled code that counts the calls of its kernels."""

    def __init__(self, code):
        self._code, self.calls = code, 0

    def __getattr__(self, name):
        self.calls += 1
        return getattr(self._code, name)


@pytest.fixture
def counted(monkeypatch):
    """Count the calls of kernels of a module of the package for float32."""

    def count(module):
        found = Counted(module.KERNELS.on(torch.empty(0)))
        monkeypatch.setitem(module.KERNELS._made, torch.float32, found)
        return found

    return count


def both(layer, called, x):
    results = []
    for function in (called, layer):
        leaf = x.clone().requires_grad_()
        z = function(leaf)
        results.append([z, *torch.autograd.grad(z.square().sum(), [leaf, *layer.parameters()])])
    return results


GRAPHS = {
    "rows": (cpp_affine_like, lambda **more: ad.AffineLike(64, 8, **more), (64, 64)),
    "patches": (cpp_patch_affine_like, lambda **more: ad.PatchNormConv2d(16, 4, 3, **more), (8, 16, 12, 12)),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", GRAPHS)
def test_compiled_graphs_call_the_kernels(kind, dynamic, counted):
    module, make, shape = GRAPHS[kind]
    layer = make(backend="cpp" if kind == "rows" else None)  # rows need a large batch before a graph uses kernels
    torch.manual_seed(0)
    x = torch.randn(shape)
    torch.compiler.reset()
    calls = counted(module)
    layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    before = calls.calls
    assert before > 0
    torch.testing.assert_close(*both(layer, compiled, x), rtol=1e-4, atol=1e-4)
    ours = calls.calls - before
    layer.backend = "torch"
    torch.compiler.reset()
    before = calls.calls
    both(layer, torch.compile(layer, fullgraph=True, backend="aot_eager"), x)
    assert ours >= 4 and calls.calls == before, "kernels ran although torch's operations were requested"


@pytest.mark.slow
def test_the_whole_compiler_calls_the_kernels(counted):
    """Also without a requested backend: many rows, and images."""
    for module, layer, x in (
        (cpp_affine_like, ad.AffineLike(512, 8), torch.randn(2048, 512)),
        (cpp_patch_affine_like, ad.PatchNormConv2d(16, 8, 3, padding=1), torch.randn(8, 16, 16, 16)),
    ):
        for shaped in (x, x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x):
            torch.compiler.reset()
            calls = counted(module)
            torch.testing.assert_close(*both(layer, torch.compile(layer, fullgraph=True), shaped), rtol=1e-3, atol=1e-3)
            assert calls.calls >= 4


def test_what_is_exported_needs_no_kernels(counted):
    calls = counted(cpp_patch_affine_like)
    layer, x = ad.PatchNormConv2d(16, 4, 3), torch.randn(8, 16, 12, 12)
    program = torch.export.export(layer, (x,))
    assert not [n for n in program.graph.nodes if "cpp_" in str(n.target)] and not calls.calls
    torch.testing.assert_close(program.module()(x), layer(x))


def test_where_dispatch_keys_are_not_told_operators_are_called(monkeypatch):
    """The shortcut tests the keys of every operand; without them torch's dispatcher does."""
    layer, x = ad.AffineLike(64, 8), torch.randn(64, 64)
    wanted = both(layer, layer, x)[0]
    seen = []
    operator = cpp_affine_like.OPERATOR
    for module in (backends, operands, rows, launch):
        monkeypatch.setattr(module, "KEYS_ARE_KNOWN", False)
    monkeypatch.setattr(backends, "_AT_ONCE", {})
    monkeypatch.setattr(backends, "_ON_HOST", {})
    monkeypatch.setattr(
        cpp_affine_like.AffineLikeReverse, "apply", staticmethod(lambda *a: seen.append(1) or operator(*a))
    )
    monkeypatch.setattr(cpp_affine_like.AffineLike, "apply", None)
    torch.testing.assert_close(both(layer, layer, x)[0], wanted)
    assert seen and not backends._AT_ONCE
