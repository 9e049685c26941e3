"""Replacing torch's layers in a model by generated ones, and reverting it."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import affine_divergence as ad

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage:UserWarning"),
]

E, H = 8, 2


class Model(nn.Module):
    """A model with tied weights, a shared layer, attention, and layers without a counterpart."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, E)
        self.attention = nn.MultiheadAttention(E, H, batch_first=True)
        self.first = nn.Linear(E, E)
        self.again = self.first
        self.without = nn.Linear(E, E, bias=False)
        self.norm = nn.LayerNorm(E)
        self.head = nn.Linear(E, 11)
        self.head.weight = self.embedding.weight

    def forward(self, t):
        x = self.embedding(t)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.norm(self.without(self.again(torch.tanh(self.first(x))))))


T = torch.arange(6).view(2, 3)


def everything(model):
    """Return the parameters by name, and their addresses."""
    return {name: (id(p), p.dtype, p.requires_grad) for name, p in model.named_parameters()}


def types(model):
    return {name: type(m) for name, m in model.named_modules()}


def test_layers_are_replaced_in_place():
    model = Model().double().eval()
    model.first.weight.requires_grad_(False)
    parts, parameters, random = dict(model.named_modules()), everything(model), torch.get_rng_state()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    report = ad.convert(model)
    assert report.model is model and dict(model.named_modules()) == parts and everything(model) == parameters
    assert torch.equal(torch.get_rng_state(), random), "no random number was drawn"
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert type(model.attention) is ad.AffineLikeMultiheadAttention
    assert type(model.attention.out_proj) is type(model.first) is type(model.head) is ad.AffineLike
    assert model.head.weight is model.embedding.weight and model.again is model.first
    assert not any(m.training for m in model.modules())
    expected = ad.AffineLikeMultiheadAttention(E, H, batch_first=True, dtype=torch.float64).eval()
    expected.load_state_dict(model.attention.state_dict())
    x = torch.randn(2, 3, E, dtype=torch.float64)
    assert torch.equal(model.attention(x, x, x)[0], expected(x, x, x)[0])
    assert model(T).dtype == torch.float64


def test_the_report_lists_every_module_with_parameters():
    report = ad.convert(Model())
    assert report.to_dict() == {
        "dry_run": False,
        "replaced": [
            {"name": "attention", "from": "MultiheadAttention", "to": "AffineLikeMultiheadAttention"},
            {"name": "first", "from": "Linear", "to": "AffineLike"},
            {"name": "head", "from": "Linear", "to": "AffineLike"},
        ],
        "skipped": [
            {"name": "embedding", "type": "Embedding", "why": "this package has no counterpart for it"},
            {
                "name": "without",
                "type": "Linear",
                "why": "AffineLike(bias=False): the non-normalising affine-like map exists only with a bias; keep the "
                "bias, or use NormLike",
            },
            {"name": "norm", "type": "LayerNorm", "why": "this package has no counterpart for it"},
        ],
    }
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    lines = str(report).splitlines()
    assert lines[0] == "3 replaced, 3 skipped" and "  first: Linear -> AffineLike" in lines
    assert any(line.startswith("  norm: LayerNorm skipped: this package has no") for line in lines)


def test_revert_gives_back_torchs_layers():
    model, twin = Model(), Model()
    twin.load_state_dict(model.state_dict())
    before, parameters, settings = types(model), everything(model), {k: set(vars(m)) for k, m in model.named_modules()}
    ad.convert(model, without_bias="norm-like")
    assert type(model.without) is ad.NormLike and model.without.kappa == 1.0
    report = ad.revert(model)
    assert types(model) == before and everything(model) == parameters
    assert {k: set(vars(m)) for k, m in model.named_modules()} == settings
    assert {(r.name, r.new) for r in report.replaced} >= {("attention", "MultiheadAttention"), ("without", "Linear")}
    torch.testing.assert_close(model(T), twin(T))
    assert not ad.revert(model).replaced


def test_a_second_call_changes_nothing():
    model = Model()
    ad.convert(model)
    before = types(model)
    report = ad.convert(model)
    assert not report.replaced and types(model) == before
    assert {s.name for s in report.skipped if "already" in s.why} == {"attention", "first", "head"}
    ad.revert(model)
    assert type(model.first) is nn.Linear and type(model.attention) is nn.MultiheadAttention


def test_a_dry_run_does_nothing():
    model = Model()
    before, settings = types(model), {k: set(vars(m)) for k, m in model.named_modules()}
    report = ad.convert(model, dry_run=True)
    assert types(model) == before and {k: set(vars(m)) for k, m in model.named_modules()} == settings
    assert report.dry_run and len(report.replaced) == 3 and str(report).startswith("3 would be replaced")
    assert report.to_dict()["replaced"] == ad.convert(model).to_dict()["replaced"]


def test_a_filter_chooses():
    model, asked = Model(), []
    report = ad.convert(model, lambda module, name: asked.append((name, type(module))) or name == "head")
    assert [r.name for r in report.replaced] == ["head"] and type(model.first) is nn.Linear
    assert asked == [
        (n, t)
        for n, t in [
            ("attention", nn.MultiheadAttention),
            ("first", nn.Linear),
            ("without", nn.Linear),
            ("head", nn.Linear),
        ]
    ]
    assert {s.name: s.why for s in report.skipped}["first"] == "filter_fn excludes it"


def test_a_filter_that_fails_leaves_the_model_alone():
    model = Model()
    before = types(model)
    with pytest.raises(ZeroDivisionError):
        ad.convert(model, lambda module, name: name != "head" or 1 // 0)
    assert types(model) == before


def test_hooks_stay_and_fire():
    model, seen = Model(), []
    model.first.register_forward_pre_hook(lambda m, x: seen.append("pre"))
    model.first.register_forward_hook(lambda m, x, z: seen.append("forward"))
    model.first.register_full_backward_pre_hook(lambda m, g: seen.append("backward pre"))
    model.first.register_full_backward_hook(lambda m, gx, g: seen.append("backward"))
    model.first.weight.register_hook(lambda g: seen.append("weight"))
    model.first.register_state_dict_pre_hook(lambda *_: seen.append("state"))
    for change in (ad.convert, ad.revert):
        change(model)
        seen.clear()
        model(T).sum().backward()
        model.state_dict()
        assert set(seen) == {"pre", "forward", "backward pre", "backward", "weight", "state"}


def test_an_optimiser_goes_on():
    model = Model()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for change in (None, ad.convert, ad.revert):
        if change:
            change(model)
        before = model.first.weight.detach().clone()
        optimiser.zero_grad()
        model(T).square().mean().backward()
        optimiser.step()
        assert not torch.equal(model.first.weight, before)
    assert len(optimiser.state) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: nn.Linear(3, 2), ad.AffineLike),
        (lambda: nn.MultiheadAttention(E, H), ad.AffineLikeMultiheadAttention),
    ],
)
def test_a_root_that_is_itself_a_layer(make, kind):
    root = make()
    report = ad.convert(root)
    assert report.model is root and type(root) is kind
    assert report.replaced[0].name == "" and "(root)" in str(report)
    assert type(ad.revert(root).model) is type(make())


def test_settings_of_attention_are_kept():
    old = nn.MultiheadAttention(E, H, 0.3, add_bias_kv=True, add_zero_attn=True, kdim=5, vdim=6)
    new = ad.convert(old).model
    settings = (new.dropout, new.add_zero_attn, new.kdim, new.vdim, new.batch_first, new.value_path, new.qk_norm)
    assert settings == (0.3, True, 5, 6, False, False, False)
    new.eval()
    twin = ad.AffineLikeMultiheadAttention(E, H, add_bias_kv=True, add_zero_attn=True, kdim=5, vdim=6).eval()
    twin.load_state_dict(new.state_dict())
    inputs = torch.randn(3, 2, E), torch.randn(4, 2, 5), torch.randn(4, 2, 6)
    assert torch.equal(new(*inputs)[0], twin(*inputs)[0])


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_converted_model_can_be_reverted(again):
    model = Model()
    plain = model(T)
    ad.convert(model)
    other = again(model)
    assert torch.equal(other(T), model(T))
    ad.revert(other)
    torch.testing.assert_close(other(T), plain)
    assert type(model.first) is ad.AffineLike


class Mine(nn.Linear):
    pass


def replaced_forward():
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: x
    return layer


def pruned():
    return prune.l1_unstructured(nn.Linear(3, 3), "weight", 0.5)


def wrapped():
    attention = nn.MultiheadAttention(4, 2)
    attention.out_proj = Mine(4, 4)
    return attention


STAYS = {
    "subclass": (lambda: Mine(3, 3), "it is a subclass of Linear, which may compute something else"),
    "parametrised": (lambda: parametrizations.weight_norm(nn.Linear(3, 3)), "computed from others"),
    "pruned": (pruned, "its weight is computed from other parameters"),
    "forward": (replaced_forward, "its forward was replaced on the object"),
    "lazy": (lambda: nn.LazyLinear(3), "its shapes are not known yet; call it once before"),
    "complex": (lambda: nn.Linear(3, 3, dtype=torch.complex64), "torch.complex64; the maps need real"),
    "attention": (lambda: nn.MultiheadAttention(4, 2, bias=False), "exists only with a bias"),
    "output": (wrapped, "its out_proj was replaced by a Mine"),
    "built": (lambda: ad.NormLike(3, 3), "it is a layer of this package already"),
    "recurrent": (lambda: nn.GRU(3, 3), "this package has no counterpart for it"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("name", STAYS)
def test_what_cannot_be_replaced_stays_with_its_reason(name):
    make, words = STAYS[name]
    model = nn.Sequential(make())
    before = types(model)
    report = ad.convert(model)
    assert not report.replaced and types(model) == before
    (skipped,) = report.skipped
    assert words in skipped.why and skipped.name == "0" and skipped.type == type(model[0]).__name__


def test_layers_that_were_built_are_not_reverted():
    model = nn.Sequential(ad.AffineLike(3, 3), nn.Linear(3, 3))
    ad.convert(model)
    report = ad.revert(model)
    assert [type(m) for m in model] == [ad.AffineLike, nn.Linear]
    assert [(s.name, s.why) for s in report.skipped] == [("0", "convert did not make it; it was built as this class")]


@pytest.mark.parametrize("only", [None, "linear1", "self_attn"])
def test_torch_does_not_bypass_what_was_converted_in_an_encoder(only):
    """In evaluation mode torch's encoders would compute plain layers from the parameters, with nested tensors."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, H, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    x, padding = torch.randn(2, 3, E), torch.tensor([[False, False, False], [False, False, True]])
    model.eval()
    with torch.no_grad():
        plain = model(x, src_key_padding_mask=padding)
    ad.convert(model, only and (lambda module, name: only in name))
    model.train()
    expected = model(x, src_key_padding_mask=padding)
    model.eval()
    with torch.no_grad():
        ours = model(x, src_key_padding_mask=padding)
        seen = ~padding
        torch.testing.assert_close(ours[seen], expected[seen])
        assert not torch.allclose(ours[seen], plain[seen], atol=1e-2)
        ad.revert(model)
        assert model.use_nested_tensor and model.layers[0].activation_relu_or_gelu == 1
        torch.testing.assert_close(model(x, src_key_padding_mask=padding)[seen], plain[seen])


def test_a_compiled_model_is_compiled_again():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(3, 4)
    compiled(x)
    ad.convert(model)
    torch.testing.assert_close(compiled(x), model(x))


CONVOLUTIONS = {
    "Conv1d": ((2, 3, 3), {"stride": 2, "padding": 1, "padding_mode": "circular"}, (2, 2, 7)),
    "Conv2d": ((4, 6, (3, 2)), {"groups": 2, "padding": "same", "dilation": (1, 2)}, (2, 4, 5, 6)),
    "Conv3d": ((2, 2, 2), {"padding": (0, 1, 0)}, (1, 2, 3, 2, 3)),
    "ConvTranspose1d": ((2, 3, 3), {"stride": 2, "output_padding": 1}, (2, 2, 4)),
    "ConvTranspose2d": ((4, 2, 2), {"groups": 2, "padding": 1}, (1, 4, 3, 3)),
    "ConvTranspose3d": ((2, 2, 2), {"dilation": 2}, (1, 2, 2, 2, 2)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_become_patch_norm_where_the_package_holds_it(name):
    arguments, settings, shape = CONVOLUTIONS[name]
    old = getattr(nn, name)(*arguments, **settings)
    before = dict(vars(old))
    report = ad.convert(old)
    kind = getattr(ad, f"PatchNorm{name}", None)
    if kind is None:
        assert report.skipped[0].why == f"this package holds no PatchNorm{name}"
        return
    x = torch.randn(shape)
    twin = kind(*arguments, **settings)
    twin.load_state_dict(old.state_dict())
    torch.testing.assert_close(old(x), twin(x))
    assert torch.equal(ad.self_factor(old, x), torch.full_like(ad.self_factor(old, x), old.kappa))
    assert type(ad.revert(old).model) is getattr(nn, name) and vars(old) == before


MISTAKES = [
    (lambda: ad.convert([nn.Linear(2, 2)]), TypeError, "convert: model is a list; give a torch.nn.Module"),
    (lambda: ad.revert(None), TypeError, "revert: model is a NoneType"),
    (lambda: ad.convert(nn.Linear(2, 2), "linear"), TypeError, "filter_fn is a str; give a function"),
    (lambda: ad.convert(nn.Linear(2, 2), without_bias="drop"), ValueError, "without_bias is 'drop'; choose"),
]


@pytest.mark.parametrize(("call", "error", "words"), MISTAKES)
def test_message(call, error, words):
    with pytest.raises(error, match=words):
        call()
