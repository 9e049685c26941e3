"""The benchmarks really compile their modules, although torch skips the frames of its own containers."""

import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from verify.bench.compiled import Whole, compiled


def test_a_container_of_torch_is_compiled_as_one_graph():
    found, module = CompileCounter(), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    whole = Whole(module)
    whole.compile(backend=found, dynamic=False)
    x = torch.randn(2, 4)
    torch.testing.assert_close(whole(x), module(x))
    assert found.frame_count == 1 and found.op_count == 2


def test_parameters_stay_those_of_the_module():
    module = nn.Linear(3, 2)
    assert list(compiled(module).parameters()) == list(module.parameters())
