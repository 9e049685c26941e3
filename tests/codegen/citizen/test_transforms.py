"""Every module under torch's transforms: vmap, forward mode, second derivatives, checkpointing."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from tests.codegen.citizen.citizens import CITIZENS, IMAGES, citizens, gradients, loss, slow_marked, torchs_own

pytestmark = torchs_own
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


@citizens
def test_vmap_is_a_loop(name):
    module, x = CITIZENS[name].make(), torch.stack([CITIZENS[name].example(2, seed=k) for k in range(3)])
    torch.testing.assert_close(torch.vmap(module)(x), torch.stack([module(one) for one in x]))


@citizens
def test_vmap_over_parameters_is_a_loop(name):
    """An ensemble whose members have their own parameters."""
    members, x = [CITIZENS[name].make(seed=k) for k in range(2)], CITIZENS[name].example(2)
    stacked, _ = torch.func.stack_module_state(members)
    ours = torch.vmap(lambda p: functional_call(members[0], p, (x,)))(stacked)
    torch.testing.assert_close(ours, torch.stack([member(x) for member in members]))


@citizens
def test_tangents_are_central_differences(name):
    module, x = CITIZENS[name].make(), CITIZENS[name].example(2)
    names = [n for n, _ in module.named_parameters()]
    points = (x, *(p.detach() for p in module.parameters()))
    ways = tuple(torch.randn_like(p) for p in points)

    def function(x, *parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    z, tangent = torch.func.jvp(function, points, ways)
    torch.testing.assert_close(z, module(x))
    step = 1e-6
    ends = [function(*(p + k * step * w for p, w in zip(points, ways, strict=True))) for k in (1, -1)]
    torch.testing.assert_close(tangent, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def twice(module, x):
    """Check second derivatives with respect to input and parameters against differences of the first."""
    names = [n for n, _ in module.named_parameters()]
    leaves = (x.requires_grad_(), *module.parameters())
    return torch.autograd.gradgradcheck(
        lambda x, *p: functional_call(module, dict(zip(names, p, strict=True)), (x,)), leaves, fast_mode=True
    )


@citizens
def test_gradients_can_be_differentiated(name):
    assert twice(CITIZENS[name].make(), CITIZENS[name].example(2))


class Forgetful(torch.autograd.Function):
    """A square whose gradient forgets that it depends on the input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0].detach() * g


def test_a_gradient_that_forgets_its_graph_is_caught():
    class Square(nn.Module):
        def forward(self, x):
            return Forgetful.apply(x)

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        twice(Square(), torch.randn(3, dtype=torch.float64))


@citizens
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_are_the_same_bits(name, reentrant):
    module, x = CITIZENS[name].make(), CITIZENS[name].example()
    leaf = x.clone().requires_grad_()
    loss(checkpoint(module, leaf, use_reentrant=reentrant)).backward()
    for got, right in zip((leaf, *module.parameters()), gradients(module, x), strict=True):
        assert torch.equal(got.grad, right)


@citizens
def test_copies_compute_the_same_and_share_nothing(name):
    module, x = CITIZENS[name].make(), CITIZENS[name].example()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x)) and repr(other) == repr(module)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert all(p.any() for p in module.parameters())


@citizens
def test_state_dicts_load_both_ways(name):
    module, twin = CITIZENS[name].make(), CITIZENS[name].torchs(dtype=torch.float64)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (module, twin)]
    assert shapes[0] == shapes[1]
    twin.load_state_dict(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), module.parameters(), strict=True))
    other = CITIZENS[name].make(seed=5)
    other.load_state_dict(twin.state_dict())
    x = CITIZENS[name].example()
    assert torch.equal(other(x), module(x))


@citizens
def test_from_the_meta_device_to_memory(name):
    module, x = CITIZENS[name].make(), CITIZENS[name].example()
    empty = CITIZENS[name].make(device="meta")
    assert empty(x.to("meta")).shape == module(x).shape
    empty.to_empty(device="cpu")
    for part in empty.modules():
        getattr(part, "reset_parameters", lambda: None)()
    assert empty(x).isfinite().all()
    empty.load_state_dict(module.state_dict())
    assert torch.equal(empty(x), module(x))


@citizens
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_its_type_and_keeps_the_parameters(name, dtype):
    module, x = CITIZENS[name].make(torch.float32), CITIZENS[name].example(dtype=torch.float32).requires_grad_()
    twin = CITIZENS[name].torchs(dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        z = module(x)
        assert z.dtype == twin(x).dtype
    z.float().square().sum().backward()
    assert {t.grad.dtype for t in (x, *module.parameters())} == {torch.float32}
    torch.testing.assert_close(z.float(), module(x), rtol=0.05, atol=0.1)


def follows(function, x):
    """Whether output and gradient are channels-last like the input."""
    layout = LAYOUTS[x.dim()]
    x = x.to(memory_format=layout).requires_grad_()
    z = function(x)
    (dx,) = torch.autograd.grad(z, x, torch.randn_like(z))
    return all(t.is_contiguous(memory_format=layout) for t in (z, dx))


@pytest.mark.parametrize("name", slow_marked([n for n, c in IMAGES.items() if len(c.shape) + 1 in LAYOUTS]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_in_channels_last_out(name, dtype):
    module, x = CITIZENS[name].make(dtype), CITIZENS[name].example(dtype=dtype)
    twin = CITIZENS[name].torchs(dtype=dtype)
    assert follows(module, x) or not follows(twin, x)  # in 16 bits torch lacks such a kernel on some processors
    alike = [gradients(module, t) for t in (x, x.to(memory_format=LAYOUTS[x.dim()]))]
    for a, b in zip(*alike, strict=True):
        rtol, atol = (1e-4, 1e-3) if dtype == torch.float32 else (0.05, 0.01)  # of terms that cancel: two roundings
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol * float(b.abs().max()))


def test_a_layout_that_is_lost_is_noticed():
    assert not follows(lambda x: x.contiguous() * 2, torch.randn(2, 4, 3, 3))
