"""A layer of one matrix from a file, at rows near the end of float32: output and gradients as by the definition."""

import importlib

import pytest
import torch

from codegen.compiler import build_layer
from codegen.package import write
from derive.spec import loads_spec
from tests.codegen.layer_files import toml
from tests.codegen.test_far_rows import KAPPA, SHAPES, assert_right, definition, operands, results

FEATURES = {"far_rows": "x[j]", "far_powers": "x[j]**3/(1 + x[j]**2)"}  # both as large as the input


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    """The functions of a layer that computes what the catalogue's affine one does, and of one with powers inside."""
    folder = tmp_path_factory.mktemp("far")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name, feature in FEATURES.items():
            text = toml(name, "n m", "x: n", "W: m n, b: m", "z: m", f"z[i] = sum[j](W[i, j]*{feature}) + b[i]")
            write(build_layer(loads_spec(text), package=name), folder / name)
        yield {name: importlib.import_module(f"{name}.functional") for name in FEATURES}


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("size", [1e30, 1e38])
@pytest.mark.parametrize("name", ["affine-like", "norm-like"])
@pytest.mark.parametrize("layer", FEATURES)
def test_output_and_gradients_are_those_of_the_definition(functions, layer, name, size, backend):
    run = getattr(functions[layer], f"{layer}_{name.replace('-', '_')}")
    tensors, g = operands(name, torch.float32, size, SHAPES[0])
    mine = results(lambda *t: run(*t, kappa=KAPPA, backend=backend), tensors, g)

    def right(x, *others):
        return definition(name, x if layer == "far_rows" else x**3 / (1 + x**2), *others)

    assert_right(mine, results(right, [t.detach().double().requires_grad_() for t in tensors], g.double()))
