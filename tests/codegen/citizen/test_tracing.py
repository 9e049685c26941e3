"""Every module under torch's compilers: one graph, few recompilations, exported programs for any batch, ONNX."""

import io
import re

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
    """Return how often a module is recompiled after the first batch, as one graph with dynamic shapes."""
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
    """For batches on one side of the 1024 entries from which on a graph may have kernels."""
    citizen = CITIZENS[name]
    assert compiled_again(citizen.make(), [citizen.example(batch) for batch in (3, 4, 5)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patches norm-like"])
def test_at_most_one_more_serves_every_extent(name):
    citizen = CITIZENS[name]
    batches = [citizen.example(5 + grow, grow=grow) for grow in (0, 2, 4)]
    assert compiled_again(citizen.make(), batches) <= 1


def overwritten(graph_module):
    """Return the names of in-place operations on the results of a graph or its subgraphs."""
    found = []
    for module in graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            returned = next(iter(reversed(module.graph.nodes))).all_input_nodes
            found += [n.target for n in returned if n.op == "call_method" and re.search("[a-z]_$", n.target)]
    return found


class Overwriting(torch.autograd.Function):
    """A product that scales its result in place."""

    @staticmethod
    def forward(ctx, x):
        return (x @ x.t()).mul_(2)

    @staticmethod
    def backward(ctx, g):
        return None


def compiled_as(function, x):
    """Return the result of a function compiled as one graph, and the results that the graph overwrites."""
    torch.compiler.reset()
    found = []

    def backend(graph_module, _):
        found.extend(overwritten(graph_module))
        return graph_module

    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)(x), found


@pytest.mark.parametrize("name", CITIZENS)
def test_a_compiled_module_has_the_same_gradients_and_overwrites_no_result(name):
    citizen = CITIZENS[name]
    module, x = citizen.make(), citizen.example().requires_grad_()
    z, found = compiled_as(module, x)
    gradients = [torch.autograd.grad(loss(y), [x, *module.parameters()]) for y in (z, module(x))]
    torch.testing.assert_close(*gradients)
    assert not found


def test_a_result_that_is_overwritten_is_found():
    assert compiled_as(Overwriting.apply, torch.randn(3, 3, requires_grad=True))[1] == ["mul_"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", CITIZENS)
def test_a_traced_module_computes_other_batches_and_their_gradients(name):
    citizen = CITIZENS[name]
    module, x = citizen.make(), citizen.example(6, seed=2).requires_grad_()
    traced = torch.jit.trace(module, (citizen.example(),), check_trace=False)
    for scale in (1, 1e150):  # squares in range for one example may overflow for another
        z, y = (called(scale * x) for called in (traced, module))
        torch.testing.assert_close(z, y)
    gradients = [torch.autograd.grad(loss(called(x)), [x, *module.parameters()]) for called in (traced, module)]
    torch.testing.assert_close(*gradients)


class OneGraphABatch(nn.Module):
    """A product whose factor is looked up by the size of the batch."""

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
    """Return a function of an array: ONNX Runtime on the export of a module."""
    pytest.importorskip("onnxscript", reason="needs onnx and onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    batch = {0: Dim("batch", min=2)}
    made = torch.onnx.export(module.eval(), (x,), dynamo=True, verbose=False, dynamic_shapes=(batch,))
    session = runtime.InferenceSession(made.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def by_traced_exporter(module, x):
    """Return a function of an array: ONNX Runtime on the export of a module by torch's older, tracing exporter."""
    runtime = pytest.importorskip("onnxruntime")
    made = io.BytesIO()
    axes = {"x": {0: "batch"}}
    torch.onnx.export(module.eval(), (x,), made, dynamo=False, input_names=["x"], dynamic_axes=axes)
    session = runtime.InferenceSession(made.getvalue(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "name", ["affine-like", "norm-like centred", "norm-like without bias", "transposed 2d", "attention qk-norm"]
)
def test_the_exporter_that_traces_gives_the_same(name):
    citizen = CITIZENS[name]
    module = citizen.make(torch.float32)
    theirs = by_traced_exporter(module, citizen.example(300, torch.float32))
    x = citizen.example(300, torch.float32, seed=2)  # enough for the kernels in C++
    torch.testing.assert_close(theirs(x), module(x), rtol=1e-4, atol=1e-5)


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
