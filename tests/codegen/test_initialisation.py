"""Initial values: variance-preserving, or torch's on request."""

import pytest
import torch
from torch import nn

import affine_divergence as ad

ROWS = {"affine-like": ad.AffineLike, "norm-like": ad.NormLike}
PATCHES = [f"Conv{word}{axes}d" for word in ("", "Transpose") for axes in (1, 2, 3)]


def drawn(make):
    torch.manual_seed(7)
    return [p.detach() for p in make().parameters()]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(*pair) for pair in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_drawn_as_torchs(name):
    theirs = drawn(lambda: nn.Linear(6, 5))
    assert same(drawn(lambda: ROWS[name](6, 5, init="torch")), theirs)
    assert not same(drawn(lambda: ROWS[name](6, 5)), theirs)
    assert same(drawn(lambda: ad.NormLike(6, 5, False, init="torch")), drawn(lambda: nn.Linear(6, 5, False)))


@pytest.mark.parametrize("name", PATCHES)
def test_kernels_are_drawn_as_torchs(name):
    ours, theirs = getattr(ad, f"PatchNorm{name}"), getattr(nn, name)
    expected = drawn(lambda: theirs(4, 6, 3, groups=2))
    assert same(drawn(lambda: ours(4, 6, 3, groups=2, init="torch")), expected)
    assert not same(drawn(lambda: ours(4, 6, 3, groups=2)), expected)


@pytest.mark.parametrize("given", [{}, {"kdim": 6, "vdim": 10, "add_bias_kv": True}])
def test_attention_is_drawn_in_the_range_of_torchs(given):
    torch.manual_seed(0)
    ours, theirs = ad.AffineLikeMultiheadAttention(96, 2, init="torch", **given), nn.MultiheadAttention(96, 2, **given)
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.25 if "bias_" in name else 0.05), name
        if "weight" in name:
            assert a.abs().max() <= 1.01 * b.abs().max()
    unit = ad.AffineLikeMultiheadAttention(96, 2, **given)
    assert float(unit.out_proj.weight.detach().std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda **more: ad.AffineLike(4, 3, **more),
        lambda **more: ad.PatchNormConv1d(4, 3, 3, **more),
        lambda **more: ad.AffineLikeMultiheadAttention(4, 2, **more),
        lambda **more: ad.convert(nn.Linear(4, 3), **more),
    ],
)
def test_another_word_is_refused(make):
    with pytest.raises(ValueError, match="init is 'xavier'; choose one of 'variance-preserving', 'torch'"):
        make(init="xavier")


def test_it_is_shown_where_it_is_not_the_usual():
    assert repr(ad.AffineLike(4, 3, init="torch")).endswith("kappa=1, init='torch')")
    assert "init" not in repr(ad.AffineLike(4, 3)) and "init='torch'" in repr(ad.PatchNormConv1d(4, 4, 3, init="torch"))


def model():
    torch.manual_seed(3)
    return nn.ModuleList([nn.Linear(64, 64), nn.Conv1d(64, 64, 3), nn.MultiheadAttention(64, 2)])


@pytest.mark.parametrize("init", [None, "torch", "variance-preserving"])
def test_converted_layers_keep_their_values_or_draw_them(init):
    before = [p.detach().clone() for p in model().parameters()]
    made = model()
    places = list(made.parameters())
    ad.convert(made, init=init)
    after = list(made.parameters())
    assert all(a is b for a, b in zip(places, after, strict=True)), "the parameters stay the same objects"
    assert same(after, before) == (init is None)
    deviations = [float(p.detach().std()) for p in after if p.dim() > 1]
    if init == "variance-preserving":
        assert deviations == pytest.approx([1.0] * 4, rel=0.05)
    else:
        assert max(deviations) < 0.2
    assert all(part.init == "torch" for part in made) or init != "torch"
    ad.revert(made)
    assert type(made[0]) is nn.Linear and not hasattr(made[0], "init")
