"""The kernels in torch: second derivatives, vmap, tracing, and saved memory."""

import pytest
import torch

from affine_divergence.kernels.triton import affine_like as affine_kernels
from affine_divergence.runtime import operators as operators_module

pytestmark = [  # torch's own: see tests/codegen/test_generated.py
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

SHAPE = (5, 4, 3)


def test_gradcheck(layer):
    tensors, _ = layer.operands(SHAPE)
    call = lambda *t: layer.ours(*t, 1.7)  # noqa: E731
    assert torch.autograd.gradcheck(call, tensors, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, tensors)


@pytest.mark.parametrize("shape", [SHAPE, (5, 520, 3)], ids=str)
def test_gradients_that_nobody_wants_are_none(layer, shape):
    tensors, g = layer.operands(shape)
    exact = torch.autograd.grad(layer.twin(*tensors, 1.7), tensors, g)
    for wanted, right in enumerate(exact):
        chosen = [t.detach().requires_grad_(k == wanted) for k, t in enumerate(tensors)]
        layer.ours(*chosen, 1.7).backward(g)
        assert [t.grad is not None for t in chosen] == [k == wanted for k in range(len(chosen))]
        torch.testing.assert_close(chosen[wanted].grad, right)


def test_four_bytes_a_row_are_kept_beside_the_inputs(layer):
    tensors, _ = layer.operands(SHAPE, torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer.ours(*tensors, 1.7)
    extra = [t for t in saved if t.data_ptr() not in {t.data_ptr() for t in tensors}]
    assert [(tuple(t.shape), t.dtype) for t in extra] == [((SHAPE[0], 1), torch.float32)]


def test_vmap(layer):
    tensors, _ = layer.operands(SHAPE)
    stacked = torch.stack([t for t in (tensors[0], 2 * tensors[0])])
    ours = torch.vmap(lambda x: layer.ours(x, *tensors[1:], 1.7))(stacked)
    torch.testing.assert_close(ours, layer.twin(stacked, *tensors[1:], 1.7))


@pytest.mark.parametrize("dynamic", [False, True])
def test_traced_whole(layer, dynamic, run):
    tensors, g = layer.operands(SHAPE)
    torch.compiler.reset()
    compiled = torch.compile(lambda *t: layer.ours(*t, 1.7), backend="aot_eager", fullgraph=True, dynamic=dynamic)
    call = lambda *operands: compiled(*operands[:-1])  # noqa: E731
    for ours, exact in zip(run(call, tensors, g), run(layer.twin, tensors, g), strict=True):
        torch.testing.assert_close(ours, exact)


def test_operators_keep_their_word():
    """``opcheck`` of both operators: schema, tracing, shapes without values, and gradients that are not recorded."""
    operators = getattr(torch.ops, operators_module.LIBRARY.ns)
    x, W, b, g = (torch.randn(s, dtype=torch.float64) for s in ((5, 4), (3, 4), (3,), (5, 3)))
    f = affine_kernels.forward(x, W, b, 1.7)[1]
    torch.library.opcheck(operators.affine_like.default, (x, W, b, 1.7))
    for wanted in ([True, True, True], [True, False, False], [False, True, False], [False, False, True]):
        torch.library.opcheck(operators.affine_like_backward.default, (g, x, W, b, f, 1.7, wanted))


def test_autocast(layer):
    tensors, _ = layer.operands((16, 16, 16), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        z = layer.ours(*tensors, 1.7)
    gradients = torch.autograd.grad(z.float().sum(), tensors)
    assert z.dtype == torch.bfloat16 and all(d.dtype == torch.float32 for d in gradients)
    torch.testing.assert_close(z.float(), layer.twin(*tensors, 1.7), rtol=0.05, atol=0.05)


def test_checkpointed(layer, run):
    tensors, g = layer.operands(SHAPE)
    again = lambda *t: torch.utils.checkpoint.checkpoint(layer.ours, *t, use_reentrant=False)  # noqa: E731
    for ours, exact in zip(run(again, tensors, g), run(layer.twin, tensors, g), strict=True):
        torch.testing.assert_close(ours, exact)
