"""Converted models with accelerate and torchao: correct results, and clear messages for the wrong order."""

import pytest
import torch
from torch import nn

import affine_divergence as ad

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # ignore these tools' own warnings
X = torch.linspace(-2, 3, 4 * 3 * 5 * 5).view(4, 3, 5, 5).sin()


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 32))
    return model.eval()


def converted():
    model = network()
    assert len(ad.convert(model).replaced) == 3
    return model


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_a_model_that_accelerate_offloads(where, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = converted()
    wanted = model(X)
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device="cpu")
    else:
        accelerate.disk_offload(model, tmp_path, execution_device="cpu")
    assert model[2].weight.is_meta and torch.equal(model(X), wanted)
    report = ad.revert(model)
    assert not report.replaced and len(report.skipped) == 3
    assert "replaced on the object by accelerate; call remove_hook_from_submodules first" in report.skipped[0].why
    assert torch.equal(model(X), wanted)
    accelerate.hooks.remove_hook_from_submodules(model)
    assert len(ad.revert(model).replaced) == 3
    if where == "cpu":
        torch.testing.assert_close(model(X), network()(X))


def test_a_model_that_was_offloaded_is_left():
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(network(), execution_device="cpu")
    report = ad.convert(model)
    assert not report.replaced and torch.equal(model(X), network()(X))
    assert all("by accelerate, which places or offloads it; convert before" in s.why for s in report.skipped)


@pytest.mark.parametrize("way", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_quantised_layers(way):
    """By default ``quantize_`` takes only torch's Linear; with a filter for ours, it rounds the same map's weight."""
    torchao = pytest.importorskip("torchao.quantization")
    config, model = getattr(torchao, way)(), converted()
    wanted = model(X)
    torchao.quantize_(model, config)
    assert type(model[2].weight) is nn.Parameter and torch.equal(model(X), wanted)
    torchao.quantize_(model, config, filter_fn=lambda module, name: isinstance(module, ad.AffineLike))
    assert type(model[2].weight) is not nn.Parameter
    error = ((model(X) - wanted).norm() / wanted.norm()).item()
    assert 0 < error < 0.02
    assert len(ad.revert(model).replaced) == 3  # torch's layer computes with such a weight as well
    first, second = network(), network()
    torchao.quantize_(first, config)
    torch.testing.assert_close(model(X), torchao.quantize_(second, config) or second(X))
    left = {s.name: s.why for s in ad.convert(first).skipped}
    assert set(left) == {"2", "4"} and all("as quantisation makes them; convert before" in why for why in left.values())
