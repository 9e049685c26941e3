"""A layer of one matrix from a file, at rows near the end of float32: output and gradients as by the definition."""

import importlib

import pytest
import torch

from codegen.compiler import build_layer
from codegen.package import write
from derive.spec import loads_spec
from tests.codegen.layer_files import toml
from tests.codegen.test_far_rows import KAPPA, SHAPES, assert_right, definition, operands, results


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    """The functions of a layer that computes what the catalogue's affine layer does."""
    folder = tmp_path_factory.mktemp("far")
    text = toml("far_rows", "n m", "x: n", "W: m n, b: m", "z: m", "z[i] = sum[j](W[i, j]*x[j]) + b[i]")
    write(build_layer(loads_spec(text), package="far_rows"), folder / "far_rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module("far_rows.functional")


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("size", [1e30, 1e38])
@pytest.mark.parametrize("name", ["affine-like", "norm-like"])
def test_output_and_gradients_are_those_of_the_definition(functions, name, size, backend):
    run = getattr(functions, f"far_rows_{name.replace('-', '_')}")
    tensors, g = operands(name, torch.float32, size, SHAPES[0])
    mine = results(lambda *t: run(*t, kappa=KAPPA, backend=backend), tensors, g)
    exact = results(
        lambda *t: definition(name, *t), [t.detach().double().requires_grad_() for t in tensors], g.double()
    )
    assert_right(mine, exact)
