"""A layer from a file at rows near the end of float32: the output and gradients of the definition in float64."""

import importlib

import pytest
import torch

from codegen.compiler import build_layer
from codegen.package import write
from derive.spec import loads_spec
from tests.codegen.test_far_rows import KAPPA, SHAPES, definition, operands, results, roundings
from verify.fuzz.maps import LAYER


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    """The functions of a layer that computes what the catalogue's affine layer does."""
    folder = tmp_path_factory.mktemp("far")
    text = LAYER.replace("tanh(x[j])", "x[j]").replace('"fuzzed"', '"far_rows"')
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
    for tensor, right in zip(mine[:1] + mine[2:], exact[:1] + exact[2:], strict=True):
        assert roundings(tensor, right) <= 32
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        assert roundings(mine[1][rows], exact[1][rows]) <= 32
