"""Gradients of several cotangents at once, full Jacobians, and graphs in which a module is one node."""

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

import affine_divergence as ad
from tests.codegen.citizen.citizens import CITIZENS, citizens, slow_marked, torchs_own

pytestmark = torchs_own
ENOUGH = 300  # samples, enough for the kernels of rows


def is_a_loop(module, x):
    """Whether the gradients of three cotangents at once equal those of each alone."""
    leaves = [x.detach().requires_grad_(), *module.parameters()]
    z = module(leaves[0])
    cotangents = torch.randn(3, *z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(2))
    together = torch.autograd.grad(z, leaves, cotangents, is_grads_batched=True, retain_graph=True)
    singly = [torch.autograd.grad(z, leaves, one, retain_graph=True) for one in cotangents]
    torch.testing.assert_close(together, tuple(map(torch.stack, zip(*singly, strict=True))))


@citizens
def test_many_cotangents_are_a_loop(name):
    is_a_loop(CITIZENS[name].make(), CITIZENS[name].example(2))


@pytest.mark.parametrize("name", ["affine-like", "norm-like", "norm-like without bias", "patches kept"])
def test_many_cotangents_are_a_loop_where_there_are_kernels(name):
    is_a_loop(CITIZENS[name].make(), CITIZENS[name].example(ENOUGH))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_many_cotangents_are_a_loop_where_rows_are_taken_in_blocks(backend):
    is_a_loop(ad.AffineLike(1024, 4, backend=backend).double(), torch.randn(512, 1024, dtype=torch.float64))


class Overwriting(torch.autograd.Function):
    """A product whose gradient overwrites memory that is too small for several cotangents."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return torch.mul(g, 2, out=torch.empty(g.shape, dtype=g.dtype))


def test_a_gradient_that_is_written_over_memory_is_noticed():
    class Twice(nn.Module):
        def forward(self, x):
            return Overwriting.apply(x)

    with pytest.raises(RuntimeError, match="out="):
        is_a_loop(Twice(), torch.randn(2, 3))


@pytest.mark.parametrize("name", slow_marked(n for n in CITIZENS if "3d" not in n))  # whose Jacobians are large
def test_whole_jacobians(name):
    module, x = CITIZENS[name].make(), CITIZENS[name].example(1)
    right = jacobian(module, x)
    torch.testing.assert_close(jacobian(module, x, vectorize=True), right)
    try:
        found = jacobian(module, x, vectorize=True, strategy="forward-mode")
    except NotImplementedError as problem:
        assert "scaled_dot_product" in str(problem), "only torch's own operation may lack forward mode"
    else:
        torch.testing.assert_close(found, right)


@citizens
def test_a_module_is_one_step_of_a_symbolic_trace(name):
    module, x = CITIZENS[name].make(), CITIZENS[name].example()
    part = module.attention if name.startswith("attention") else module
    model = nn.Sequential(module, nn.Tanh())
    traced = torch.fx.symbolic_trace(model)
    steps = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert traced.get_submodule(steps[0]) is part and len(steps) == 2
    for batch in (x, CITIZENS[name].example(3, seed=4)):
        torch.testing.assert_close(traced(batch), model(batch))
    with pytest.raises(TypeError, match="call it on a model that holds the module"):
        torch.fx.symbolic_trace(part)


def odd():
    """Return inputs that are not dense real tensors, each with a part of its error message."""
    rows = torch.randn(32, 64)
    ragged = [rows[:3], rows[:5]]
    return {
        "sparse": (rows.to_sparse(), "layout torch.sparse_coo; convert it with .to_dense"),
        "compressed": (rows.to_sparse_csr(), "layout torch.sparse_csr; convert it with .to_dense"),
        "jagged": (torch.nested.nested_tensor(ragged, layout=torch.jagged), "nested tensor; pad it"),
        "nested": (torch.nested.nested_tensor(ragged), "nested tensor; pad it"),
        "complex": (rows.to(torch.complex64), "type torch.complex64; convert it"),
        "integers": (rows.long(), "type torch.int64; convert it"),
    }


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("backend", [None, "torch", "cpp"])
def test_what_is_no_dense_tensor_of_real_numbers_is_refused_by_name(backend):
    for kind, (x, words) in odd().items():
        for layer in (ad.AffineLike(64, 8, backend=backend), ad.NormLike(64, 8, bias=False, backend=backend)):
            with pytest.raises(TypeError, match=words):
                layer(x)
        if not x.is_nested and kind != "compressed":
            with pytest.raises(TypeError, match=words):
                ad.functional.patch_norm_conv1d(x, torch.randn(3, 32, 2), torch.randn(3), backend=backend)
    W = torch.randn(8, 64)
    with pytest.raises(TypeError, match="weight has the layout"):
        ad.functional.affine_like(torch.randn(32, 64), W.to_sparse(), torch.randn(8), backend=backend)
    with pytest.raises(TypeError, match="bias is a nested tensor"):
        ad.functional.affine_like(torch.randn(32, 64), W, odd()["nested"][0], backend=backend)
    with pytest.raises(TypeError, match="bias has the layout"):
        ad.functional.affine_like(torch.randn(32, 64), W, torch.randn(8).to_sparse(), backend=backend)
