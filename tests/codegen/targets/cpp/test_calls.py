"""The ways to the C++ kernels: the fast path or the checks, Python's C API or ctypes."""

import contextlib

import pytest
import torch
import torch.utils.checkpoint
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import affine_divergence as ad
from affine_divergence.kernels.cpp import affine_like as cpp_affine_like
from affine_divergence.kernels.cpp.runtime import compile as cpp_compile
from affine_divergence.kernels.cpp.runtime import load as cpp_load
from affine_divergence.runtime import backends

HOME = "affine_like.AffineLike"
X, W, b = torch.randn(128, 256), torch.randn(200, 256), torch.randn(200)
LAYERS = {
    "rows": (ad.AffineLike(256, 200), X),
    "rows without a bias": (ad.NormLike(256, 200, bias=False), X),
    "patches": (ad.PatchNormConv2d(8, 8, 3), torch.randn(4, 8, 32, 32)),
}
layers = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture(autouse=True)
def ready(monkeypatch):
    """The kernels are loaded, and no backend is requested."""
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    ad.functional.affine_like(X, W, b)


def at_once(x=X, weight=W, bias=b, backend=None):
    return backends.at_once(HOME, backend, x, weight, bias)


def test_the_usual_call_is_taken_at_once():
    assert at_once() is not None and at_once(torch.nn.Parameter(X)) is not None


class Kind(torch.Tensor):
    """A subclass of Tensor."""


UNUSUAL = {
    "a backend that is named": {"backend": "cpp"},
    "few numbers": {"x": X[:3]},
    "no leading axis": {"x": X[0]},
    "two leading axes": {"x": X[None]},
    "another number of features": {"x": X[:, 1:]},
    "a bias of another length": {"bias": b[1:]},
    "another type of the input": {"x": X.double()},
    "another type of the weight": {"weight": W.double()},
    "another type of the bias": {"bias": b.double()},
    "a type without kernels": {"x": X.half(), "weight": W.half(), "bias": b.half()},
    "a tensor of its own kind": {"x": X.as_subclass(Kind)},
    "a weight of its own kind": {"weight": W.as_subclass(Kind)},
    "a bias that is no tensor": {"bias": 1.0},
    "no values": {"x": X.to("meta"), "weight": W.to("meta"), "bias": b.to("meta")},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_whatever_is_unusual_comes_to_the_checks(name):
    assert at_once(**UNUSUAL[name]) is None


def test_a_wish_in_the_environment_comes_to_the_checks(monkeypatch):
    monkeypatch.setenv(backends.VARIABLE, "torch")
    assert at_once() is None


def test_what_is_in_force_comes_to_the_checks():
    with torch.autocast("cpu", torch.bfloat16):
        assert at_once() is None
        assert ad.functional.affine_like(X, W, b).dtype == torch.bfloat16
    seen = []
    torch.func.vmap(lambda x: (seen.append(at_once(x)), x)[1])(X.expand(2, *X.shape))
    assert seen == [None]


@layers
def test_a_graph_of_operations_holds_the_whole_map(name):
    """A kernel is not a torch operation: a recorded graph without it would silently compute something else."""
    layer, x = LAYERS[name]
    graph = make_fx(layer, tracing_mode="real")(x)
    other = torch.randn_like(x)
    torch.testing.assert_close(graph(other), layer(other), rtol=1e-5, atol=1e-5)


def counted(layer, x):
    """Return the multiplications and additions that torch counts, forward and backward."""
    forward, backward = (FlopCounterMode(display=False) for _ in range(2))
    with forward:
        z = layer(x.requires_grad_())
    with backward:
        z.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@layers
def test_products_are_counted_where_torch_counts_them(name):
    layer, x = LAYERS[name]
    twin = torch.nn.Conv2d(8, 8, 3) if name == "patches" else torch.nn.Linear(256, 200)
    ours, least = counted(layer, x), counted(twin, x)
    assert all(0 < low <= found <= 1.6 * low for found, low in zip(ours, least, strict=True))


@pytest.mark.parametrize("place", ["input", "gradient", "bias"])
def test_a_sign_that_is_only_noted_is_seen(place):
    """Torch may represent a negated tensor by the original memory and a pending negation."""
    x, weight, bias, g = X.double(), W.double(), b.double(), torch.randn(128, 200, dtype=torch.float64)
    noted = {"input": x, "gradient": g, "bias": bias}[place]
    found = []
    for turn in (torch._neg_view, torch.neg):
        turned = [turn(t) if t is noted else t for t in (x, weight, bias, g)]
        inputs = [t.detach().requires_grad_() for t in turned[:3]]
        z = ad.functional.affine_like(*inputs)
        found.append((z, *torch.autograd.grad(z, inputs, turned[3])))
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


@pytest.fixture
def by_ctypes(monkeypatch):
    """Kernels compiled as if Python's headers were not installed."""
    monkeypatch.setattr(cpp_compile, "_python", lambda: ())
    return cpp_compile.compiled.__wrapped__


def test_with_headers_or_without_the_results_are_the_same_bits(by_ctypes, monkeypatch):
    if not isinstance(cpp_affine_like.KERNELS.on(X), type(contextlib)):
        pytest.skip("Python's headers are not installed: there is only one way")
    found = []
    for kernels in (cpp_affine_like.KERNELS.on(X), by_ctypes(cpp_affine_like.KERNELS._path, X.dtype)):
        monkeypatch.setitem(cpp_affine_like.KERNELS._made, X.dtype, kernels)
        inputs = [t.detach().requires_grad_() for t in (X, W, b)]
        z = ad.functional.affine_like(*inputs)
        found.append((z, *torch.autograd.grad(z.cos().sum(), inputs)))
    assert isinstance(kernels, cpp_load.Called)
    assert all(torch.equal(ours, other) for ours, other in zip(*found, strict=True))


def test_headers_that_do_not_compile_are_done_without(monkeypatch, tmp_path):
    (tmp_path / "Python.h").write_text("#error not these\n")
    monkeypatch.setattr(cpp_compile, "_python", lambda: ("-DPYTHON", f"-I{tmp_path}"))
    kernels = cpp_compile.compiled.__wrapped__(cpp_affine_like.KERNELS._path, X.dtype)
    assert isinstance(kernels, cpp_load.Called)


def test_a_call_of_another_form_is_refused():
    kernels = cpp_affine_like.KERNELS.on(X)
    if isinstance(kernels, cpp_load.Called):
        pytest.skip("Python's headers are not installed: ctypes does not check the number of arguments")
    with pytest.raises(TypeError, match="a kernel takes 6 values, not 2"):
        kernels.affine_like_u(1, 2)
    with pytest.raises(TypeError):
        kernels.affine_like_u("rows", 2, 3, 4, 5, 6)


def test_a_kernel_that_gets_no_memory_says_so():
    kernels = cpp_affine_like.KERNELS.on(X)
    if isinstance(kernels, cpp_load.Called):
        pytest.skip("Python's headers are not installed: ctypes catches no exceptions of a kernel")
    with pytest.raises(MemoryError):
        kernels.affine_like_db(0, 2**59, 0, 0, 0, 1)  # sums of so many columns


@pytest.mark.parametrize("name", ["rows", "patches"])
def test_what_a_checkpoint_gives_once_is_read_once(name):
    """A backward pass that no kernel accepts, here for a gradient with a pending negation, is torch's."""
    layer, x = LAYERS[name]
    found = []
    for turn in (torch._neg_view, torch.neg):
        leaf = x.detach().requires_grad_()
        z = torch.utils.checkpoint.checkpoint(layer, leaf, use_reentrant=False)
        found.append(torch.autograd.grad(z, [leaf, *layer.parameters()], turn(torch.ones_like(z))))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
