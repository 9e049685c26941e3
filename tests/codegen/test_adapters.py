"""LoRA through peft: the low-rank term is inside the layer's map, so that merging it changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import affine_divergence as ad

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # ignore peft's own warnings
peft = pytest.importorskip("peft")


class Net(nn.Module):
    def __init__(self, groups=1):
        super().__init__()
        self.line, self.image = nn.Conv1d(4, 4, 3, groups=groups), nn.Conv2d(4, 8, 3, padding=1, groups=groups)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=groups)
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5, bias=False)

    def forward(self, x):
        return self.last(self.first(self.line(self.up(self.image(x)).flatten(2)).transpose(1, 2)))


X = torch.linspace(-2, 3, 2 * 4 * 5 * 5).view(2, 4, 5, 5).sin()
TARGETS = ["line", "image", "up", "first", "last"]


def config(**given):
    given = {"target_modules": TARGETS, "r": 4, "lora_alpha": 8, "init_lora_weights": False} | given
    return ad.lora_config(peft.LoraConfig(**given))


def adapted(groups=1, **given):
    torch.manual_seed(0)
    model = Net(groups).eval()
    assert len(ad.convert(model, without_bias="norm-like").replaced) == 5
    return peft.get_peft_model(model, config(**given)).eval()


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_merge_changes_nothing(groups, dtype):
    model, x = adapted(groups).to(dtype), X.to(dtype)
    before = model(x)
    with model.disable_adapter():
        plain = model(x)
    bound = 5e-7 if dtype == torch.float32 else 1e-14
    assert distance(before, plain) > 0.1, "the adapters have no effect"
    model.merge_adapter()
    assert distance(model(x), before) < bound
    with model.disable_adapter():  # this undoes the merge
        assert distance(model(x), plain) < bound
    merged = model.merge_and_unload(safe_merge=True)
    assert distance(merged(x), before) < bound and type(merged.image) is ad.PatchNormConv2d
    assert len(ad.revert(merged).replaced) == 5


def test_the_term_is_in_the_weight_and_not_beside_the_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8).double())
    ad.convert(model)
    W, b, x = (
        model[0].weight,
        model[0].bias,
        torch.randn(80, 16, dtype=torch.float64),
    )  # enough for kernels, if there are any
    model = peft.get_peft_model(model, config(target_modules=["0"]), autocast_adapter_dtype=False).double()
    layer = model.base_model.model[0]
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scale = 1 / (x.square().sum(-1, keepdim=True) + 1).sqrt()
    wanted = scale * (F.linear(x, W + 2 * B @ A) + b)
    assert distance(model(x), wanted) < 1e-14
    assert distance(layer.base_layer(x) + 2 * F.linear(F.linear(x, A), B), wanted) > 1, (
        "the term seems to be added outside the layer"
    )
    ours = torch.autograd.grad(model(x).square().sum(), (A, B))
    theirs = torch.autograd.grad(wanted.square().sum(), (A, B))
    assert all(distance(one, other) < 1e-13 for one, other in zip(ours, theirs, strict=True))
    assert not W.requires_grad and layer.lora_A["default"].bias.abs().max() == 0
    assert set(dict(model.named_parameters())) - {"base_model.model.0.base_layer.weight"} == {
        "base_model.model.0.base_layer.bias",
        "base_model.model.0.lora_A.default.weight",
        "base_model.model.0.lora_B.default.weight",
    }


def test_a_layer_whose_kappa_is_changed_later_still_merges():
    model = adapted(target_modules=["first"])
    model.base_model.model.first.base_layer.kappa = 0.25
    before = model(X)
    assert distance(model.merge_and_unload()(X), before) < 5e-7


def test_an_adapted_projection_of_attention_and_a_compiled_model():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    ad.convert(model)
    x = torch.randn(2, 5, 8)
    model = peft.get_peft_model(model, config(target_modules=["out_proj", "linear1"])).eval()
    before = model(x)
    assert distance(torch.compile(model, backend="eager")(x), before) < 5e-7
    with torch.no_grad():
        assert distance(model(x), before) < 5e-7, "the encoder's fast path bypasses the adapters"
    assert distance(model.merge_and_unload()(x), before) < 5e-7


def test_half_precision_dropout_and_several_adapters():
    model = adapted(lora_dropout=0.5).bfloat16()
    model.add_adapter("second", config(r=2, init_lora_weights="gaussian", use_rslora=True))
    assert model(X.bfloat16()).dtype == torch.bfloat16
    model.train()
    assert not torch.equal(model(X.bfloat16()), model(X.bfloat16()))
    model = adapted(r=2).eval()
    model.add_adapter("second", config(r=6))
    first = model(X)
    model.set_adapter("second")
    second = model(X)
    mixed = model(X, adapter_names=["default", "second"])
    assert distance(mixed, torch.stack([first[0], second[1]])) < 5e-7


def test_a_saved_adapter_is_loaded_again(tmp_path):
    model = adapted()
    wanted = model(X)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    plain = Net().eval()
    ad.convert(plain, without_bias="norm-like")
    again = ad.lora_config(peft.LoraConfig.from_pretrained(tmp_path))
    assert distance(peft.PeftModel.from_pretrained(plain, tmp_path, config=again)(X), wanted) < 1e-7


def test_the_wrong_order_is_met():
    """A conversion after peft skips all parts of adapters; peft raises an error for our layers."""
    model = peft.get_peft_model(Net(), peft.LoraConfig(target_modules=["first"], init_lora_weights=False)).eval()
    report = ad.convert(model, without_bias="norm-like")
    left = {s.name.partition("first.")[2]: s.why for s in report.skipped if "first" in s.name}
    assert set(left) == {"base_layer", "lora_A.default", "lora_B.default"}
    assert all(why.startswith("it belongs to a Linear of peft") for why in left.values())
    before = model(X)
    assert distance(model.merge_and_unload()(X), before) < 5e-7
    with pytest.raises(ValueError, match=r"Target module AffineLike.* is not supported"):
        peft.get_peft_model(ad.convert(Net()).model, peft.LoraConfig(target_modules=["first"]))


def test_an_adapted_layer_is_not_reverted():
    model = adapted()
    before = model(X)
    report = ad.revert(model)
    assert not report.replaced and len(report.skipped) >= 5 and torch.equal(model(X), before)
    assert report.skipped[0].why.startswith("it belongs to a Lora of peft, which adds to what its base layer computes")
    assert report.skipped[0].why.endswith("; merge_and_unload first")


OTHERS = ["LoHaConfig", "LoKrConfig", "OFTConfig", "BOFTConfig", "HRAConfig", "VeraConfig"]


@pytest.mark.parametrize("name", OTHERS)
def test_other_adapters_of_peft_say_that_they_do_not_take_the_layers(name):
    with pytest.raises((TypeError, ValueError), match=r"not supported|No layers types compatible"):
        peft.get_peft_model(ad.convert(Net()).model, getattr(peft, name)(target_modules=["first"]))


def test_an_adapter_of_a_parameter_merges():
    """If peft replaces the weight itself, the layer scales it like any other weight."""
    model = ad.convert(nn.Sequential(nn.Linear(8, 4))).model
    model = peft.get_peft_model(model, peft.LoraConfig(target_parameters=["0.weight"], init_lora_weights=False)).eval()
    x = torch.randn(3, 8)
    before = model(x)
    assert distance(model.merge_and_unload()(x), before) < 5e-7


REFUSED = {
    "dora": ({"use_dora": True}, "use_dora=True divides by the norm of the merged weight"),
    "bias": ({"lora_bias": True}, "lora_bias=True adds a bias"),
    "init": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'; choose True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_low_rank_term_of_the_weight_is_refused(name):
    given, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        config(**given)


def test_mistakes():
    with pytest.raises(TypeError, match=r"config is a dict; give a peft\.LoraConfig"):
        ad.lora_config({"r": 4})
    with pytest.raises(ValueError, match="r is 3; give a positive multiple of the layer's groups, 2"):
        adapted(groups=2, r=3, target_modules=["image"])
