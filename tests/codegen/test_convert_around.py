"""Changes to a layer by other code, before or after its conversion, are supported or refused with the reason."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.testing._internal.two_tensor import TwoTensor

import affine_divergence as ad


def hooked(layer):
    """Replace a layer's forward on the object, as accelerate does."""
    own = layer.forward
    layer.forward = lambda *args, **kwargs: own(*args, **kwargs)
    return layer


class Around(nn.Module):
    """Reads its children's weights directly, in ways that are visible in the source or only in a call."""

    def __init__(self):
        super().__init__()
        self.seen, self.inner, self.asked, self.local, self.plain, self.unused = (nn.Linear(4, 4) for _ in range(6))
        self.several = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.tied = nn.Embedding(4, 4)
        self.tied.weight = self.plain.weight

    def forward(self, x):
        x = self._inner(self.plain(F.linear(x, self.seen.weight)))
        x = self.asked(x.to(self.asked.weight.dtype)) if self.asked.bias is not None else x
        layer = self.local
        return (
            F.linear(x, layer.weight, layer.bias) + self.several[0].bias + self.tied(torch.zeros(1, dtype=torch.long))
        )

    def _inner(self, x):
        return x @ self.inner.weight.t()


SEEN = {"seen", "inner", "several.0", "several.1"}


def test_layers_whose_weight_the_code_around_them_reads_are_left():
    report = ad.convert(Around(), dry_run=True)
    left = {s.name: s.why for s in report.skipped if s.type == "Linear"}
    assert set(left) == SEEN
    assert (
        left["seen"]
        == "Around reads its weight directly, without calling the layer, and would still compute torch's map"
    )
    assert "bias" in left["several.0"]


def test_an_example_finds_what_the_source_hides_and_what_is_never_called():
    model = nn.Sequential(Around(), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    x, before = torch.randn(3, 4), copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    report = ad.convert(model, example=x)
    assert {s.name for s in report.skipped if s.type == "Linear"} == {f"0.{n}" for n in SEEN | {"local"}}
    assert {r.name for r in report.replaced} == {"0.asked", "0.plain", "0.unused"}
    assert report.uncalled == ("0.unused",) == tuple(report.to_dict()["uncalled"])
    assert "  0.unused: replaced, but the example does not call it" in str(report)
    assert torch.equal(torch.get_rng_state(), random) and all(m.training for m in model.modules())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert not any("forward" in vars(m) for m in model.modules())


def test_an_example_that_fails_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ad.convert(model, example=torch.randn(3, 5))
    assert type(model[0]) is nn.Linear and not vars(model[0]).get("forward") and model.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_examples_are_given_as_the_model_takes_them():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.MultiheadAttention(4, 2)

        def forward(self, x, twice=False):
            x = self.first.forward(x)
            return self.second(x, x, x)[0] if twice else x

    x = torch.randn(3, 2, 4)
    for example, uncalled in ((x, ("second",)), ((x, True), ()), ({"x": x, "twice": True}, ())):
        assert ad.convert(Two(), example=example).uncalled == uncalled
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    assert ad.convert(encoder, example=torch.randn(2, 3, 4)).uncalled == ()


def test_an_example_reaches_compiled_and_exported_modules():
    x = torch.randn(3, 4)
    part = nn.Sequential(torch.compile(nn.Linear(4, 4), backend="eager"), nn.ReLU())
    whole = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager")
    here = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    here.compile(backend="eager")
    for model in (part, whole, here):
        model(x)
        report = ad.convert(model, example=x)
        assert len(report.replaced) == 1 and report.uncalled == ()
    exported = torch.export.export(nn.Sequential(nn.Linear(4, 4)), (x,)).module()
    assert not ad.convert(exported, example=x).replaced


def quantised():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(TwoTensor(torch.randn(4, 4), torch.randn(4, 4)))
    return layer


def partitioned():
    layer = nn.Linear(4, 4)
    layer.weight.ds_id = 0
    return layer


def attention(change):
    layer = nn.MultiheadAttention(4, 2)
    change(layer.out_proj)
    return layer


LEFT = {
    "quantised": (quantised, "its weight is a TwoTensor, as quantisation makes them; convert before"),
    "partitioned": (partitioned, "its weight is partitioned by DeepSpeed"),
    "projection": (lambda: attention(hooked), "its forward was replaced on the object"),
    "old weight norm": (lambda: torch.nn.utils.weight_norm(nn.Linear(4, 4)), "computed from other parameters"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", LEFT)
def test_what_something_else_has_a_hand_in_is_left(name):
    make, words = LEFT[name]
    report = ad.convert(make())
    assert not report.replaced and words in report.skipped[0].why


CHANGED = {
    "weight norm": (parametrizations.weight_norm, "its parameters are now computed from others"),
    "spectral norm": (parametrizations.spectral_norm, "its parameters are now computed from others"),
    "forward": (hooked, "its forward has been replaced on the object; undo that first"),
    "class": (lambda m: setattr(m, "__class__", type("Mine", (ad.AffineLike,), {})), "to Mine; undo that first"),
    "setting": (lambda m: setattr(m, "in_features", 9), "its in_features was 4 when it was converted and is 9 now"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_revert_refuses_what_was_changed_since(name):
    change, words = CHANGED[name]
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(3, 4)
    ad.convert(model)
    change(model[0])
    kind, before = type(model[0]), model[0](x) if name != "setting" else None
    report = ad.revert(model)
    assert [r.name for r in report.replaced] == ["1"] and type(model[1]) is nn.Linear
    assert [s.name for s in report.skipped] == ["0"] and words in report.skipped[0].why
    assert type(model[0]) is kind
    if before is not None:
        torch.testing.assert_close(model[0](x), before, rtol=1e-3, atol=1e-3)  # each call changes a spectral norm


def test_what_was_undone_can_be_reverted():
    model = nn.Sequential(nn.Linear(4, 4))
    ad.convert(model)
    parametrizations.weight_norm(model[0])
    torch.nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    prune.l1_unstructured(model[0], "weight", 0.5)
    assert ad.revert(model).replaced
    x = torch.randn(3, 4)
    torch.testing.assert_close(model(x), F.linear(x, model[0].weight, model[0].bias))


def test_attention_is_put_back_as_a_whole_or_not_at_all():
    model = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).eval()
    ad.convert(model)
    x = torch.randn(2, 3, 4)
    hooked(model.self_attn.out_proj)
    with torch.no_grad():
        before = model.self_attn(x, x, x)[0]
        report = ad.revert(model)
        assert [s.name for s in report.skipped] == ["self_attn"]
        assert type(model.self_attn) is ad.AffineLikeMultiheadAttention
        torch.testing.assert_close(model.self_attn(x, x, x)[0], before)
        assert model.activation_relu_or_gelu == 0, "the fast path would compute torch's attention"
        del model.self_attn.out_proj.forward
        model.self_attn.out_proj = nn.Linear(4, 4)
        assert "its output projection has been replaced by a Linear" in ad.revert(model).skipped[0].why


def test_a_forward_that_was_put_back_on_the_object_is_the_class_s_own():
    """Tools that wrap and unwrap a forward leave it on the object."""
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(3, 4)
    model[0].forward = model[0].forward
    assert ad.convert(model).replaced
    torch.testing.assert_close(model(x), ad.functional.affine_like(x, model[0].weight, model[0].bias))
    model[0].forward = model[0].forward
    assert ad.revert(model).replaced
    torch.testing.assert_close(model(x), F.linear(x, model[0].weight, model[0].bias))
