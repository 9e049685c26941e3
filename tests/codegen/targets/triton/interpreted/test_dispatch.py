"""The public functions and modules by Triton's kernels on request, and torch's checks of every registered operator."""

import pytest
import torch
from torch.testing._internal.optests.generate_tests import OpCheckError

import affine_divergence as ad
from affine_divergence import functional
from affine_divergence.kernels.triton import affine_like as triton_affine_like
from affine_divergence.runtime import backends
from affine_divergence.runtime import operators as operators_module

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own


def test_the_argument_and_the_environment_choose_the_kernels(layer, monkeypatch):
    tensors, _ = layer.operands((40, 24, 36))
    kernels = layer.ours(*tensors, 1.7)
    call = getattr(functional, layer.name)
    operands = [*tensors, *([] if layer.bias else [None]), 1.7]
    plain = call(*operands)
    assert torch.equal(call(*operands, backend="triton"), kernels)
    monkeypatch.setenv(backends.VARIABLE, "triton")
    assert torch.equal(call(*operands), kernels) and torch.equal(call(*operands, backend="torch"), plain)
    torch.testing.assert_close(plain, kernels)


@pytest.mark.parametrize("compiled", [False, True])
def test_modules_hand_the_choice_to_the_kernels(compiled, monkeypatch):
    seen = []
    launch = triton_affine_like._forward
    monkeypatch.setattr(triton_affine_like, "_forward", lambda *given: seen.append(1) or launch(*given))
    module = ad.AffineLike(6, 5, dtype=torch.float64, backend="triton")
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    called = torch.compile(module, fullgraph=True, backend="aot_eager") if compiled else module
    z = called(x)
    plain = functional.affine_like(x, module.weight, module.bias)
    torch.testing.assert_close(z, plain)
    torch.testing.assert_close(*(torch.autograd.grad(t.square().sum(), x) for t in (z, plain)))
    assert compiled or seen
    attention = ad.AffineLikeMultiheadAttention(4, 2, backend="triton")
    attention(*[torch.randn(3, 4)] * 3)
    assert len(seen) >= 2, "the projections of attention"


def test_cuda_is_refused_on_the_cpu(layer, monkeypatch):
    monkeypatch.setitem(backends.NEEDS, "cuda", "math")
    backends._lack.cache_clear()
    tensors, _ = layer.operands((5, 4, 3))
    with pytest.raises(ValueError, match="x is on the device 'cpu'; move x to a CUDA device, or use 'torch'"):
        getattr(functional, layer.name)(*tensors, backend="cuda")
    backends._lack.cache_clear()


def operators():
    return getattr(torch.ops, operators_module.LIBRARY.ns)


def registered():
    """Return the names of the operators that the package registers."""
    every = (schema.name for schema in torch._C._jit_get_all_schemas())
    return {n.partition("::")[2] for n in every if n.startswith(f"{operators_module.LIBRARY.ns}::")}


def test_every_registered_operator_keeps_its_word(layer):
    """The four utilities: schema, autograd's registration, tracing without values, compiling with dynamic shapes."""
    tensors, g = layer.operands((5, 4, 3))
    given = [t.detach().requires_grad_() for t in tensors]
    name = layer.name + ("" if layer.bias else "_without_a_bias")
    kept = given if name == "affine_like" else given[:2]
    f = getattr(operators(), name).default(*given, 1.7)[1].detach()
    one = [[k == wanted for k in range(len(given))] for wanted in range(len(given))]
    calls = {name: [(*given, 1.7)], f"{name}_backward": [(g, *kept, f, 1.7, w) for w in ([True] * len(given), *one)]}
    for operator, samples in calls.items():
        for arguments in samples:
            found = torch.library.opcheck(getattr(operators(), operator).default, arguments)
            assert set(found.values()) == {"SUCCESS"} and len(found) == 4
    rest = registered() - set(calls)
    assert len(rest) == len({n.removesuffix("_backward") for n in rest}) * 2, (
        "an operator without the other of its pair"
    )


def test_an_operator_that_breaks_its_word_is_caught():
    """A wrong shape for tensors without values, and an argument that is overwritten, are caught."""
    with torch.library._scoped_library("broken_word", "FRAGMENT") as library:
        library.define("wrong(Tensor x) -> Tensor")
        library.impl("wrong", lambda x: x.sum(0), "CPU")
        torch.library.register_fake("broken_word::wrong", lambda x: x.new_empty(1), lib=library)
        with pytest.raises(OpCheckError):
            torch.library.opcheck(torch.ops.broken_word.wrong.default, (torch.randn(3, 4),))
