"""A layer of rows is one step of a compiled graph: few guards, correct values, and the messages of an eager call."""

import pytest
import torch
from torch import nn

import affine_divergence as ad
from affine_divergence import functional


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def graphs_of(function, *given):
    """Return the graphs that a compiler gets (run eagerly), and the result."""
    found = []

    def kept(graph, inputs):
        found.append(graph)
        return graph

    return found, torch.compile(function, backend=kept, fullgraph=True)(*given)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [ad.AffineLike, ad.NormLike], ids=lambda m: m.__name__)
def test_a_layer_is_one_step(make, bias):
    if make is ad.AffineLike and not bias:
        pytest.skip("the map exists only with a bias")
    layer, x = make(6, 4, bias=bias), torch.randn(3, 6)
    (graph,), z = graphs_of(layer, x)
    assert [n.name for n in graph.graph.nodes if n.op == "call_function"] == ["step"]
    assert torch.equal(z, layer(x))


def test_the_compiler_guards_fewer_names_than_for_a_normaliser():
    """Every guard is tested at each call."""

    def count(module):
        torch.compiler.reset()
        lines = []

        def taken(guards):
            lines.extend(guards)
            return [True] * len(guards)

        torch.compile(module, backend="eager", options={"guard_filter_fn": taken})(torch.randn(3, 6))
        return len(lines)

    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(6, 4), nn.LayerNorm(4)

        def forward(self, x):
            return self.norm(self.linear(x))

    assert count(ad.AffineLike(6, 4)) <= 2 * count(Behind())


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_kappa_may_be_another_number_at_each_call(backend):
    torch.manual_seed(0)
    compiled = torch.compile(functional.affine_like, backend=backend)
    x, weight, bias = torch.randn(3, 6, requires_grad=True), torch.randn(4, 6), torch.randn(4)
    for kappa in (1.0, 2.5, 3.75, 2.5):
        found = compiled(x, weight, bias, kappa)
        r = (x.square().sum(-1, keepdim=True) + 1).sqrt()
        exact = kappa**0.5 * (x @ weight.t() + bias) / r
        torch.testing.assert_close(found, exact)
        ours, theirs = (torch.autograd.grad(z.square().sum(), x)[0] for z in (found, exact))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (((3, 5), (4, 6), (4,)), "takes 6 features"),
        (((3, 6), (4, 6), (5,)), "bias has shape"),
        (((3, 6), (4, 6, 1), (4,)), "give a matrix"),
    ],
)
def test_what_is_wrong_is_said_as_without_a_compiler(shapes, said):
    tensors = [torch.randn(shape) for shape in shapes]
    compiled = torch.compile(lambda *given: functional.affine_like(*given), backend="aot_eager")
    with pytest.raises(ValueError, match=said):
        functional.affine_like(*tensors)
    with pytest.raises(ValueError, match=said):
        compiled(*tensors)
