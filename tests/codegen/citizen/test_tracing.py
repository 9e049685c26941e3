"""Every module read by torch's compilers: one graph, few recompilations, programs that take any batch, ONNX."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

from tests.codegen.citizen.citizens import CITIZENS, loss, torchs_own

pytestmark = torchs_own
QUICK = {"affine-like"}
COMPILED = ["affine-like", "patches centred", "attention", "attention qk-norm"]
IN_ONNX = [
    "affine-like",
    "norm-like centred",
    "norm-like without bias",
    "patches norm-like",
    "patches centred",
    "transposed 2d",
    "attention value path",
]


def marked(names):
    return [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in names]


def compiled_again(module, batches):
    """How often a module is compiled after the first batch, as one graph with dynamic shapes, forward and backward."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    first = 0
    for x in batches:
        found = []
        for called in (compiled, module):
            leaf = x.clone().requires_grad_()
            z = called(leaf)
            found.append([z, *torch.autograd.grad(loss(z), [leaf, *module.parameters()])])
        torch.testing.assert_close(*found)
        first = first or counter.frame_count
    return counter.frame_count - first


@pytest.mark.parametrize("name", marked(COMPILED))
def test_one_compilation_serves_every_batch(name):
    citizen = CITIZENS[name]
    assert compiled_again(citizen.make(), [citizen.example(batch) for batch in (5, 7, 9)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patches norm-like"])
def test_at_most_one_more_serves_every_extent(name):
    citizen = CITIZENS[name]
    batches = [citizen.example(5 + grow, grow=grow) for grow in (0, 2, 4)]
    assert compiled_again(citizen.make(), batches) <= 1


class OneGraphABatch(nn.Module):
    """A product whose factor stands in a table by the size of the batch."""

    def forward(self, x):
        return x * {5: 1.0, 7: 2.0, 9: 3.0}[x.shape[0]]


def test_a_module_that_reads_the_size_is_compiled_for_every_size():
    assert compiled_again(OneGraphABatch(), [torch.randn(n, 4, dtype=torch.float64) for n in (5, 7, 9)]) == 2


@pytest.mark.parametrize("name", marked(CITIZENS))
def test_an_exported_program_takes_any_batch(name):
    citizen = CITIZENS[name]
    module = citizen.make()
    program = torch.export.export(module, (citizen.example(5),), dynamic_shapes=({0: Dim("batch", min=2)},))
    again = program.module()
    for batch in (2, 5, 11):
        x = citizen.example(batch)
        torch.testing.assert_close(again(x), module(x))


def in_onnx(module, x):
    """Return a function of an array that ONNX Runtime computes from what torch's exporter makes of a module."""
    pytest.importorskip("onnxscript", reason="needs onnx and onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    batch = {0: Dim("batch", min=2)}
    made = torch.onnx.export(module.eval(), (x,), dynamo=True, verbose=False, dynamic_shapes=(batch,))
    session = runtime.InferenceSession(made.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")  # torch.onnx's own
@pytest.mark.parametrize("name", IN_ONNX)
def test_onnx_runtime_computes_the_same(name):
    citizen = CITIZENS[name]
    module = citizen.make(torch.float32)
    theirs = in_onnx(module, citizen.example(5, torch.float32))
    for batch in (2, 8):
        x = citizen.example(batch, torch.float32)
        torch.testing.assert_close(theirs(x), module(x), rtol=1e-4, atol=1e-5)
    other = citizen.make(torch.float32, seed=1)
    assert (theirs(x) - other(x)).abs().max() > 0.01, "another module's output would not be told apart"
