"""Attention with extreme inputs in every setting: empty, very small or large, not a number; and its saved memory."""

import math

import pytest
import torch
from torch import nn

import affine_divergence as ad
from tests.codegen.citizen.test_numerics import EXTREMES, apart, kept

N, L, S, E, H = 3, 5, 7, 8, 2
SETTINGS = {
    "plain": {},
    "qk-norm": {"qk_norm": True},
    "value path": {"value_path": True},
    "both": {"qk_norm": True, "value_path": True},
    "both, key of zeros": {"qk_norm": True, "value_path": True, "add_zero_attn": True},
    "qk-norm, key learned": {"qk_norm": True, "add_bias_kv": True},
}
OFTEN = {"qk-norm", "both, key of zeros", "none sees ahead"}


def marked(names):
    return [pytest.param(n, marks=[] if n in OFTEN else [pytest.mark.slow]) for n in names]


settings = pytest.mark.parametrize("setting", marked(SETTINGS))
weights = pytest.mark.parametrize("weights", [True, False], ids=["weights", "fused"])


def make(setting, dtype=torch.float64, **more):
    """Return the module with parameters that every type represents exactly."""
    torch.manual_seed(0)
    given = {"batch_first": True, **SETTINGS[setting], **more}
    made = ad.AffineLikeMultiheadAttention(E, H, dtype=torch.float64, **given)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(parameter.normal_().to(torch.bfloat16))
    return made.to(dtype)


def tokens(*shape, seed=1):
    return torch.randn(*shape, E, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


MASKS = {
    "all see all": lambda dtype: {},
    "none sees ahead": lambda dtype: {"attn_mask": torch.ones(L, L).triu(1).bool()},
    "numbers": lambda dtype: {"attn_mask": torch.linspace(-2, 1, L * L).reshape(L, L).to(dtype)},
    "padded": lambda dtype: {"key_padding_mask": torch.arange(L).expand(N, L) >= torch.tensor([[5], [3], [1]])},
}


@settings
@weights
@pytest.mark.parametrize("mask", marked(MASKS))
def test_extreme_tokens_are_finite_and_as_exact_as_their_type(setting, weights, mask):
    for dtype, size in EXTREMES:
        module, exact = make(setting, dtype), make(setting)
        x = (tokens(N, L) * size).to(dtype).requires_grad_()
        z = module(x, x, x, need_weights=weights, **MASKS[mask](dtype))[0]
        wide = x.detach().double()
        right = exact(wide, wide, wide, need_weights=weights, **MASKS[mask](torch.float64))[0]
        assert z.dtype == dtype and z.isfinite().all(), (dtype, size)
        assert all(g.isfinite().all() for g in torch.autograd.grad(z.sum(), [x, *module.parameters()])), (dtype, size)
        assert apart(z, right) <= 4 * torch.finfo(dtype).eps, (dtype, size)


@settings
@weights
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_shows_in_its_sequence_alone(setting, weights, bad):
    module, x = make(setting, torch.float32), tokens(N, L).float()
    clean = module(x, x, x, need_weights=weights)[0]
    x = x.clone()
    x[1, 2, 3] = bad
    z = module(x, x, x, need_weights=weights)[0]
    assert z[1].isnan().any()
    torch.testing.assert_close(z[[0, 2]], clean[[0, 2]])


@settings
@weights
def test_empty_batches_and_sequences(setting, weights):
    module = make(setting)
    for shape in ((0, L), (N, 0)):
        x, y = tokens(*shape).requires_grad_(), tokens(shape[0], S).requires_grad_()
        z = module(x, y, y, need_weights=weights)[0]
        assert z.shape == (*shape, E)
        found = torch.autograd.grad(z.sum(), [x, y, *module.parameters()])
        assert not any(g.any() for g in found)


@settings
@weights
def test_any_strides_of_tokens_masks_and_gradient(setting, weights):
    """Sequence-first and batch-first layouts, strided and expanded tensors; no input is overwritten."""
    module = make(setting)
    x, y = tokens(N, L), tokens(N, S, seed=2)
    mask = torch.linspace(-2, 1, N * H * L * S, dtype=torch.float64).reshape(N * H, L, S)
    changes = (
        lambda t: t,
        lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
        lambda t: torch.stack([t, torch.full_like(t, math.nan)], -1)[..., 0],
    )
    found = []
    for change in changes:
        leaves = [change(t.clone()).detach().requires_grad_() for t in (x, y)]
        given = change(mask.clone())
        z = module(leaves[0], leaves[1], leaves[1], attn_mask=given, need_weights=weights)[0]
        cotangent = torch.ones((), dtype=z.dtype).expand_as(z) if change is not changes[0] else torch.ones_like(z)
        found.append([z.detach(), *torch.autograd.grad(z, [*leaves, *module.parameters()], cotangent)])
        for before, after in zip((x, y, mask), (*leaves, given), strict=True):
            assert torch.equal(before, after)
        places = {t.untyped_storage().data_ptr() for t in (*leaves, given, z, *module.parameters())}
        assert places.isdisjoint(g.untyped_storage().data_ptr() for g in found[-1][1:])
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            torch.testing.assert_close(a, b)
    alike = x[:1, :1].expand(N, L, E)
    torch.testing.assert_close(module(alike, y, y)[0], module(alike.contiguous(), y, y)[0])


class Asking(nn.Module):
    """Attention as a module of one tensor."""

    def __init__(self, attention, other, **given):
        super().__init__()
        self.attention, self.other, self.given = attention, other, given

    def forward(self, x):
        y = x if self.other is None else self.other
        return self.attention(x, y, y, **self.given)[0]


@weights
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_is_what_the_twin_keeps_and_four_bytes_a_row(qk_norm, self_attention, dtype, weights):
    """A row is a projected token, one for each product, and with QK-norm a query or key of each head.

    With a packed projection, torch's module with weights keeps the queries twice.
    """
    x, other = tokens(N, L).to(dtype).requires_grad_(), None if self_attention else tokens(N, S).to(dtype)
    answering = L if self_attention else S
    for masked in (False, True):
        given = {"attn_mask": torch.ones(L, answering).triu(1).bool()} if masked else {}
        if other is not None:
            other.requires_grad_()
        ours = make("qk-norm" if qk_norm else "plain", dtype)
        twin = nn.MultiheadAttention(E, H, batch_first=True, dtype=dtype)
        modules = (Asking(module, other, need_weights=weights, **given) for module in (ours, twin))
        more = [kept(module, x) for module in modules]
        projected = L if self_attention else L + 2 * S
        twice = N * L * E * dtype.itemsize if weights and self_attention else 0
        rows = N * (projected + L) + (N * H * (L + answering) if qk_norm else 0)
        assert more[0] - more[1] == 4 * rows - twice, masked


@pytest.mark.parametrize("setting", SETTINGS)
def test_sequence_first_is_batch_first_turned(setting):
    x, y = tokens(N, L), tokens(N, S, seed=2)
    ours = make(setting, batch_first=False)(x.transpose(0, 1), y.transpose(0, 1), y.transpose(0, 1))[0]
    torch.testing.assert_close(ours.transpose(0, 1), make(setting)(x, y, y)[0])


def test_a_gradient_beyond_its_type_is_noticed():
    """The division by the tokens' share in half precision overflows: its gradient squares long tokens."""
    x = torch.tensor([[3e4, 1.0]], dtype=torch.float16, requires_grad=True)
    share = torch.tensor([[0.2]], dtype=torch.float16, requires_grad=True)
    assert not torch.autograd.grad((x / share.clone()).to(torch.float32).sum(), share)[0].isfinite().all()
