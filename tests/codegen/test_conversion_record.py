"""A conversion survives saving: a JSON record is saved with the weights and read in another process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import affine_divergence as ad

SOURCE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, bias=False)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.attention = nn.MultiheadAttention(4, 2)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = self.up(self.convolution(x)).flatten(2).permute(2, 0, 1)
        return self.last(self.attention(x, x, x)[0])
"""
exec(SOURCE)
X = torch.linspace(-2, 3, 2 * 2 * 5 * 5).view(2, 2, 5, 5)


def converted():
    torch.manual_seed(0)
    model = Small().eval()  # noqa: F821
    ad.convert(model, without_bias="norm-like")
    model.last.kappa, model.attention.score_scale, model.up.recompute = 0.5, 0.25, False
    return model


def test_a_record_is_json_and_makes_the_same_again():
    model = converted()
    record = json.loads(json.dumps(ad.record(model)))
    assert [layer["name"] for layer in record["layers"]] == ["convolution", "up", "attention", "last"]
    assert record["schema"] == "affine-divergence.conversion/1" and record["layers"][3]["settings"]["kappa"] == 0.5
    other = Small().eval()  # noqa: F821
    report = ad.restore(other, record)
    assert [(r.name, r.old, r.new) for r in report.replaced][3] == ("last", "Linear", "AffineLike")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), model(X)) and ad.record(other) == record
    assert not ad.restore(other, record).replaced
    assert len(ad.revert(other).replaced) == 4 and type(other.last) is nn.Linear


def test_a_record_of_a_part_is_read_in_the_whole():
    model = converted()
    whole = nn.ModuleDict({"body": Small()})  # noqa: F821
    assert {r.name for r in ad.restore(whole, ad.record(model)).replaced} >= {"body.last"}


def entry(**changed):
    given = {"name": "last", "from": "Linear", "to": "AffineLike", "settings": {}} | changed
    return {"schema": "affine-divergence.conversion/1", "model": "Small", "layers": [given]}


MISTAKES = {
    "no mapping": ("Linear", TypeError, "the record is a str"),
    "schema": ({"layers": []}, ValueError, "the record has the schema None"),
    "form": (entry() | {"layers": [{"name": "last"}]}, ValueError, "is not a layer of a record"),
    "name": (entry(name="first"), ValueError, "names a layer 'first' that this Small does not have"),
    "class": (
        entry(**{"from": "Conv2d"}),
        ValueError,
        "'last' was converted from Conv2d to AffineLike, but it is a Linear",
    ),
    "kind": (entry(to="PatchNormConv2d"), ValueError, "from Linear to PatchNormConv2d, but"),
    "setting": (
        entry(settings={"weight": 1}),
        ValueError,
        "has the unknown setting 'weight'; the known ones are kappa",
    ),
    "value": (entry(settings={"kappa": -1.0}), ValueError, "kappa is -1.0; give a finite number"),
    "missing": (None, ValueError, "this Small has no config with a record"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_record_that_does_not_fit_is_refused_and_changes_nothing(name):
    record, error, words = MISTAKES[name]
    model = Small()  # noqa: F821
    with pytest.raises(error, match=words):
        ad.restore(model, record)
    assert type(model.last) is nn.Linear


def test_what_cannot_be_converted_is_not_restored():
    model = Small()  # noqa: F821
    nn.utils.parametrizations.weight_norm(model.last)
    with pytest.raises(
        ValueError, match="'last' was converted from Linear to AffineLike, but its parameters are computed"
    ):
        ad.restore(model, ad.record(converted()))
    assert type(model.convolution) is nn.Conv2d, "nothing is changed"
    with pytest.raises(ValueError, match="no layer of this model was converted"):
        ad.record(model)


def test_a_marked_model_is_noticed_where_its_weights_go_into_a_plain_one():
    plain, model = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3))
    ad.convert(model, marked=True)
    with pytest.raises(RuntimeError, match="converted_by_affine_divergence_call_its_restore"):
        plain.load_state_dict(model.state_dict())
    model.load_state_dict(plain.state_dict())  # loading plain weights does not complain about the missing buffer
    ad.revert(model)
    plain.load_state_dict(model.state_dict())


ELSEWHERE = """
import json, sys
import affine_divergence as ad
from safetensors.torch import load_file
model = Small().eval()
assert ad.restore(model, json.load(open("record.json"))).replaced
state = load_file("weights") if sys.argv[1] == "safetensors" else torch.load("weights", weights_only=True)
model.load_state_dict(state)
x, z = load_file("wanted").values()
assert torch.equal(model(x), z), (model(x) - z).abs().max()
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "state_dict"])
def test_a_conversion_is_restored_in_another_process(form, tmp_path):
    model = converted()
    save = save_file if form == "safetensors" else torch.save
    save(model.state_dict(), tmp_path / "weights")
    save_file({"x": X, "z": model(X).detach()}, tmp_path / "wanted")
    (tmp_path / "record.json").write_text(json.dumps(ad.record(model)))
    run(SOURCE + ELSEWHERE, tmp_path, form)


def run(program, folder, *arguments):
    """Run a program in a new process; return its output, or fail with it."""
    root = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.insert(0, {root!r})\n" + program
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


MODEL = """
import torch
from transformers import BertConfig, BertForMaskedLM
SIZES = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
IDS = torch.arange(6)[None]
"""
RESTORED = """
model = BertForMaskedLM.from_pretrained("saved").eval()
import affine_divergence as ad
from safetensors.torch import load_file
assert len(ad.restore(model).replaced) == 8
assert torch.equal(model(IDS).logits, load_file("wanted")["z"])
model.save_pretrained("saved")
ad.revert(model)
assert not hasattr(model.config, "affine_divergence") and len(ad.convert(model).replaced) == 8
"""


@pytest.mark.slow
def test_a_body_is_restored_from_a_model_with_a_head_and_a_head_around_a_body(tmp_path):
    from transformers import BertConfig, BertForMaskedLM, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ids = torch.arange(6)[None]
    whole = BertForMaskedLM(BertConfig(vocab_size=20, **sizes)).eval()
    ad.convert(whole)
    whole.save_pretrained(tmp_path)
    body = BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    with pytest.warns(UserWarning, match=r"records a conversion, but none of its layers is converted; ad\.restore"):
        ad.convert(BertModel(body.config))
    assert len(ad.restore(body).replaced) == 6
    assert torch.equal(body(ids).last_hidden_state, whole.bert(ids).last_hidden_state)
    body.save_pretrained(tmp_path)
    again = BertForMaskedLM.from_pretrained(tmp_path).eval()
    assert {r.name.split(".")[0] for r in ad.restore(again).replaced} == {"bert"}
    assert torch.equal(again.bert(ids).last_hidden_state, whole.bert(ids).last_hidden_state)
    assert ad.record(again) == again.config.affine_divergence
    with pytest.raises(ValueError, match="holds the record of the BertForMaskedLM that it is a part of"):
        ad.revert(again.bert)
    config = BertConfig(vocab_size=20, **sizes)
    part, other = BertForMaskedLM(config), BertForMaskedLM(config)
    ad.convert(part.bert)
    assert part.bert.config.affine_divergence["model"] == "BertModel"
    ad.convert(part)
    assert part.config.affine_divergence["model"] == "BertForMaskedLM"
    assert len(part.config.affine_divergence["layers"]) == 8 and part.bert.config is part.config
    assert other.config is config and not hasattr(config, "affine_divergence"), "the other model must have no record"


@pytest.mark.slow
def test_a_model_of_transformers_carries_its_record_and_warns_where_it_is_not_restored(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    space = {}
    exec(MODEL, space)
    model = BertForMaskedLM(BertConfig(vocab_size=20, **space["SIZES"])).eval()
    ad.convert(model, example={"input_ids": space["IDS"]})
    assert model.config.affine_divergence == ad.record(model)
    model.save_pretrained(tmp_path / "saved")
    save_file({"z": model(space["IDS"]).logits.detach()}, tmp_path / "wanted")
    for _ in range(2):  # the second time it is saved again after restoring
        said = run(MODEL + RESTORED, tmp_path)
        assert "converted_by_affine_divergence_call_its_restore | UNEXPECTED" in said
