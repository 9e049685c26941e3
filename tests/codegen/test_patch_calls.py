"""Shortcuts of PatchNorm: a sum over patches in one call, and missing gradients and tangents."""

import pytest
import torch

import affine_divergence as ad
from affine_divergence.runtime import patches as patches_module
from affine_divergence.runtime.patches import Geometry

DOUBLE = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")
pooled = pytest.mark.parametrize(
    ("kernel", "stride", "padding", "both"),
    [
        ((3, 3), (1, 1), (1, 1), True),
        ((1, 2), (1, 1), (0, 1), True),
        ((2, 5), (1, 1), (0, 2), True),
        ((3, 3), (2, 1), (1, 0), False),
        ((3, 3), (1, 1), (0, 0), False),
    ],
)


class Cut(torch.autograd.Function):
    """Returns its input, but no gradient."""

    @staticmethod
    def forward(ctx, z):
        return z.clone()

    @staticmethod
    def backward(ctx, g):
        return None


def sums(geometry, e, t):
    size = tuple(
        (n - 1) * s + k - 2 * p
        for n, s, k, p in zip(t.shape[3:], geometry.stride, geometry.kernel, geometry.padding, strict=True)
    )
    return patches_module.box(e, geometry), patches_module.spread(t, geometry, size)


@pooled
def test_sums_over_patches_in_one_call_are_those_of_one_axis_after_the_other(
    kernel, stride, padding, both, monkeypatch
):
    geometry = Geometry(kernel, stride, padding, (1, 1), (0, 0))
    e, t = torch.rand(2, 3, 1, 7, 6, dtype=DOUBLE), torch.rand(2, 3, 1, 4, 5, dtype=DOUBLE)
    calls = []
    pool = patches_module._pool
    monkeypatch.setattr(patches_module, "_pool", lambda *given: (calls.append(given), pool(*given))[1])
    at_once = sums(geometry, e, t)
    assert len(calls) == 1 + both
    monkeypatch.setattr(patches_module, "_pool", lambda flat, geometry: 2 * pool(flat, geometry))
    assert not torch.allclose(sums(geometry, e, t)[0], at_once[0])
    monkeypatch.setattr(patches_module, "_FEW", 0)
    for one, other in zip(at_once, sums(geometry, e, t), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("recompute", [True, False])
def test_an_output_that_hands_no_gradient_back_gives_the_parameters_none_or_zeros(recompute):
    layer = ad.PatchNormConv2d(2, 3, 3, recompute=recompute)
    Cut.apply(layer(torch.randn(2, 2, 5, 5))).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("form", ["affine-like", "norm-like"])
@pytest.mark.parametrize("moved", ["input", "weight", "bias"])
def test_a_tangent_of_one_operand_alone_is_that_of_zeros_for_the_others(form, moved):
    """The product is kept, so that autograd passes no zeros of its own."""
    layer = ad.PatchNormConv2d(2, 3, 3, recompute=False, form=form, dtype=DOUBLE)
    given = {"input": torch.randn(2, 2, 5, 5, dtype=DOUBLE), **dict(layer.named_parameters())}
    given = {name: tensor.detach() for name, tensor in given.items()}
    step = torch.randn_like(given[moved])

    def output(operands):
        return torch.func.functional_call(layer, {n: operands[n] for n in ("weight", "bias")}, operands["input"])

    with torch.autograd.forward_ad.dual_level():
        dual = {**given, moved: torch.autograd.forward_ad.make_dual(given[moved], step)}
        tangent = torch.autograd.forward_ad.unpack_dual(output(dual)).tangent
    ends = [output({**given, moved: given[moved] + sign * 1e-6 * step}) for sign in (1, -1)]
    torch.testing.assert_close(tangent, (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-7)
