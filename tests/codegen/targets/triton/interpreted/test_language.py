"""Layers from recent papers, written in the layer language, by Triton's interpreter against references in torch."""

from __future__ import annotations

import importlib

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")

from codegen.compiler import build_layer
from codegen.package import write
from derive.spec import loads_spec
from tests.codegen.test_language import LAYERS, made

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter is NumPy


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_kernels_are_their_twin(tmp_path, monkeypatch, name):
    monkeypatch.syspath_prepend(tmp_path)
    write(
        build_layer(loads_spec(LAYERS[name][0]), targets=("torch", "triton"), insist=True), tmp_path / f"tiled_{name}"
    )
    layer, x = made(lambda name: importlib.import_module(f"tiled_{name}"), name)
    layer.backend = "triton"
    twin, found, given = LAYERS[name][1](x, *layer.parameters()), layer(x), [x, *layer.parameters()]
    torch.testing.assert_close(found, twin, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(twin.sin().sum(), given)
    torch.testing.assert_close(torch.autograd.grad(found.sin().sum(), given), wanted, rtol=1e-11, atol=1e-12)
