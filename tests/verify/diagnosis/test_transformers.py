"""Models of transformers, built from configurations: every layer is judged exactly or listed with its reason."""

import pytest
import torch

import verify
from tests.verify.diagnosis.transformers_models import MODELS
from verify.diagnosis import captured_factors
from verify.diagnosis.advice import GAIN
from verify.diagnosis.differentiation import LAW

pytest.importorskip("transformers", reason="transformers is not installed; the extra `test` brings it")


@pytest.fixture(scope="module", params=MODELS)
def diagnosed(request):
    """One model with its previous state, and its diagnosis."""
    model, batch = MODELS[request.param]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    return request.param, model, before, verify.diagnose(model, batch, steps=1, rate=0.1)


def test_every_step_is_the_derived_one(diagnosed):
    name, _, _, found = diagnosed
    assert found.ok and len(found.losses) == 2
    unjudged = [layer.name for layer in found.layers if layer.shares is None]
    assert unjudged == [], name
    for layer in found.layers:
        assert sum((layer.shares.own, layer.shares.cross, layer.shares.elsewhere)) == pytest.approx(1)


def test_every_module_with_parameters_is_judged_or_listed(diagnosed):
    name, model, _, found = diagnosed
    named = {layer.name for layer in found.layers} | {entry.name for entry in found.unjudged}
    assert named == {n for n, module in model.named_modules() if list(module.parameters(recurse=False))}
    assert found.unjudged == (), name


def test_the_model_is_unchanged(diagnosed):
    _, model, before, _ = diagnosed
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_conv1d_and_the_tied_embedding_of_gpt2():
    model, batch = MODELS["gpt2"]()
    found = verify.diagnose(model, batch, steps=0)
    assert sum(layer.type == "Conv1D" for layer in found.layers) == 8
    head, table = found.layer("lm_head"), found.layer("transformer.wte")
    assert "transformer.wte.weight" in head.note and "lm_head.weight" in table.note
    assert head.shares.elsewhere > 0 and table.shares.elsewhere > 0
    assert head.shares.exact and table.shares.exact
    advised = [layer for layer in found.layers if layer.type == "Conv1D" and layer.advice]
    assert advised and all("affine_divergence has no replacement for Conv1D" in m.advice for m in advised)


def test_a_frozen_body_leaves_the_head():
    model, batch = MODELS["vit"]()
    model.vit.requires_grad_(False)
    found = verify.diagnose(model, batch, steps=0)
    assert [layer.name for layer in found.layers] == ["classifier"]
    assert all("frozen" in entry.reason for entry in found.unjudged)


SLOW_LAWS = (GAIN, LAW, captured_factors.LAW)  # laws that a watch leaves out


@pytest.mark.parametrize("name", MODELS)
def test_a_watched_step_reads_what_a_diagnosis_reads(name):
    model, batch = MODELS[name]()
    model.eval()  # without dropout, so that both see the same activations
    found = verify.diagnose(model, batch, steps=0)
    model.training = True  # the root alone: a step of training for the watch
    with verify.watch(model, every=1) as watched:
        model(**batch)
    known = {layer.name: layer.factors for layer in found.layers if layer.law not in SLOW_LAWS}
    assert watched.readings[0].layers == known
    assert {n.name for n in watched.unjudged} >= {layer.name for layer in found.layers if layer.law in SLOW_LAWS}
