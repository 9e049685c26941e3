"""PatchNorm's operators by Triton's kernels, for every map, under torch's four utilities for operators."""

import importlib

import pytest
import torch
from torch.testing._internal.optests.generate_tests import OpCheckError

from affine_divergence.kernels.triton import patch_affine_like as module
from codegen.catalogue import patch_maps
from tests.codegen.targets.patch_problem import KINDS, PLAIN, map_name, operator_calls, problem

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # the interpreter is NumPy
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),  # torch's own
]


@pytest.mark.parametrize("kind", [KINDS[0], pytest.param(KINDS[-1], marks=pytest.mark.slow)], ids=str)
def test_every_registered_operator_keeps_its_word(kind):
    """Schema, autograd's registration, tracing without values, compiling with dynamic shapes."""
    importlib.import_module(f"affine_divergence.kernels.triton.{map_name(*kind)}")
    checked = set()
    for operator, arguments in operator_calls("triton", problem(*kind, 1, 1)):
        found = torch.library.opcheck(operator, arguments)
        assert set(found.values()) == {"SUCCESS"} and len(found) == 4
        checked.add(operator._schema.name.partition("::")[2])
    assert checked == {f"triton_{map_name(*kind)}{word}" for word in ("", "_backward")}


def test_there_are_no_other_maps():
    assert {map_name(*kind) for kind in KINDS} == {m.module for m in patch_maps()}


def test_shapes_that_are_not_those_of_the_values_are_caught():
    operator, arguments = next(operator_calls("triton", problem("affine-like", True, PLAIN, 1, 1)))
    schema = str(operator._schema)
    with torch.library._scoped_library("broken_patches", "FRAGMENT") as library:
        library.define(f"wrong{schema[schema.index('(') :]}")
        library.impl("wrong", module.forward, "CPU")
        fake = lambda *given: tuple(t.transpose(1, 2) for t in module.forward(*given))  # noqa: E731
        torch.library.register_fake("broken_patches::wrong", fake, lib=library)
        with pytest.raises(OpCheckError):
            torch.library.opcheck(torch.ops.broken_patches.wrong.default, arguments)
