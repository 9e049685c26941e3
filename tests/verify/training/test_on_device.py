"""Every kind of network gives the same results on a GPU as on the CPU, up to rounding."""

from dataclasses import replace

import pytest
import torch

from verify.training.config import TrialConfig
from verify.training.data import load
from verify.training.trial import TrialRun

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: networks are trained on one")
CONFIG = TrialConfig("none", 0.1, width=8, epochs=None, steps=5, evaluate_every=0, probe_every=5, evaluation_samples=64)
DEVICES = ("cpu", "cuda")


def results(model, method, dtype):
    """The same trial on both devices, with the same initial values."""
    config = replace(CONFIG, model=model, method=method, dtype=dtype, context=16)
    data = load("declaration" if model == "transformer" else "digits", 0, config.torch_dtype, 16)
    runs = [TrialRun(replace(config, device=device), data, "both") for device in DEVICES]
    for run in runs:
        while run.advance():
            pass
    return [run.result() for run in runs]


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("mlp", "affine-like"),
        ("cnn", "none"),
        ("cnn", "patch-norm"),
        ("cnn", "patch-norm-like"),
        ("cnn", "patch-norm-centred"),
        ("transformer", "affine-like"),
        ("transformer", "qk-norm"),
    ],
)
def test_a_gpu_gives_what_the_cpu_gives(model, method):
    on_cpu, on_gpu = results(model, method, "float64")
    assert on_gpu.points[-1].train_loss == pytest.approx(on_cpu.points[-1].train_loss, rel=1e-9)
    for one, other in zip(on_cpu.spreads, on_gpu.spreads, strict=True):
        assert (other.layer, other.mean) == (one.layer, pytest.approx(one.mean, rel=1e-9))


@pytest.mark.parametrize(
    ("model", "method"), [("mlp", "affine-like"), ("cnn", "patch-norm"), ("transformer", "norm-like")]
)
def test_the_identity_holds_in_training_on_a_gpu(model, method):
    _, on_gpu = results(model, method, "float32")
    assert on_gpu.own_steps
    for one in on_gpu.own_steps:
        assert one.error <= one.bound and one.error_float64 <= 1e-12
