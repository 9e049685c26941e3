"""Programs as kernels, matrix products and lines of torch on the CPU, compared with the interpreter."""

import math

import numpy
import pytest
import sympy
import torch

from codegen.ir.interpret import interpret
from codegen.ir.program import Contract, Magnitude, Pointwise, Program, Value
from codegen.lower.gathering import lower
from codegen.passes.ranges import range_safe
from codegen.passes.reassociate import gradients
from codegen.printing.launches import printed, variants
from codegen.targets.cuda import target as cuda_target
from derive.algebra.index import Index, size_symbol
from derive.cancel import solve
from derive.errors import UsageError
from derive.layers import layer
from derive.properties import r
from tests.codegen.targets.cuda.host import needs_compiler
from tests.emitted import shared_by
from tests.marks import one_in
from verify.cuda_on_host import HostCode

pytestmark = needs_compiler

B, N, M = (size_symbol(name) for name in "Bnm")
LENGTHS = {"B": 6, "n": 37, "m": 5}
KAPPA = 2.5
kappa = sympy.Symbol("kappa", positive=True)
ANGLES = {
    "arctan 2r": sympy.atan(2 * r),
    "exp -r": sympy.exp(-r),
    "pi/3": sympy.pi / 3,
    "tanh r": sympy.tanh(r),
    "pi r / (2 + 2 r)": sympy.pi * r / (2 * (1 + r)),
}


def run(host, program):
    """Execute a program by its kernels; return its outputs."""
    part = printed(program, "p", program.inputs[0].name)
    context = {
        "title": "",
        "formula": "",
        "definitions": [],
        "digest": "",
        "kernels": [k.context for k in part.kernels],
    }
    source = cuda_target.render("kernels.cu.jinja", context)
    code = HostCode(source, {"runtime/rows.cuh": cuda_target.files([])[shared_by("cuda", "rows.cuh")]}, "double")
    kernels = host.launch.Kernels(code, torch.float64, torch.device("cpu"))
    names = {"kernels": kernels, "torch": torch, "F": torch.nn.functional, "math": math, "kappa": KAPPA}
    arrays = inputs(program)
    for value in program.inputs:
        tensor = torch.tensor(arrays[value.name])
        names[value.name] = tensor.unsqueeze(-1) if value.indices[0].size == B and tensor.dim() == 1 else tensor
    exec("\n".join(part.lines), names)
    return [names[name] for name in program.outputs]


def inputs(program):
    generator = numpy.random.default_rng(3)
    shapes = {v.name: [LENGTHS[i.size.name] for i in v.indices] for v in program.inputs}
    return {name: abs(generator.normal(size=shape)) + 0.1 for name, shape in shapes.items()}


def agrees(host, program):
    expected = interpret(program, inputs(program), {"kappa": KAPPA}, LENGTHS)
    for name, found in zip(program.outputs, run(host, program), strict=True):
        numpy.testing.assert_allclose(
            found.numpy().reshape(expected[name].shape), expected[name], rtol=1e-11, atol=1e-13
        )


@pytest.mark.parametrize("name", one_in(len(ANGLES), ANGLES))
def test_a_member_of_the_family_at_any_angle(host, name):
    """Its two scales at any magnitude, its forward map, and every variant of its backward pass."""
    program = lower(solve(layer("affine"), ANGLES[name])["angle"].mapped)
    agrees(host, program)
    for scale in [i.target.name for i in program.instructions if isinstance(i, Pointwise)][:-1]:
        agrees(host, range_safe(program, scale))
    backward = gradients(program, [v.name for v in program.inputs]).program
    for _, choices in variants(backward):
        for choice in choices:
            agrees(host, backward.restricted("p", choice))


s, i, j = Index("s", B), Index("i", M), Index("j", N)
x, W, b, v = Value("x", (s, j)), Value("W", (i, j)), Value("b", (i,)), Value("v", (j,))
g, f, d = Value("g", (s, i)), Value("f", (s,)), Value("d", (s,))
out, row, wide = Value("out", (s, j)), Value("row", (s,)), Value("wide", (s, j))


def program(*instructions, outputs=None):
    used = {str(e.base.label) for step in instructions for e in step.reads}
    given = tuple(a for a in (x, W, b, v, g, f, d) if a.name in used)
    return Program("p", given, (kappa,), instructions, outputs or (instructions[-1].target.name,))


TOTAL = Contract(row, (x.entry, x.entry), (j,))
PROGRAMS = {
    "only scalars of rows": program(Pointwise(row, sympy.tanh(f.entry) / d.entry), Pointwise(out, row.entry * x.entry)),
    "a column alone": program(Pointwise(row, kappa * f.entry + B)),
    "lengths in expressions": program(Pointwise(out, x.entry / N + B * v.entry)),
    "three levels": program(
        TOTAL,
        Pointwise(wide, sympy.exp(-x.entry / row.entry) * kappa),
        Contract(d2 := Value("d2", (s,)), (wide.entry, v.entry), (j,)),
        Pointwise(wide2 := Value("wide2", (s, j)), wide.entry - d2.entry * v.entry),
        Contract(d3 := Value("d3", (s,)), (wide2.entry, wide2.entry, v.entry), (j,)),
        Pointwise(out, wide2.entry / d3.entry + d2.entry),
        outputs=("out", "d3", "wide"),
    ),
    "two axes at one level": program(
        TOTAL,
        Contract(d2, (g.entry, b.entry), (i,)),
        Pointwise(out, x.entry * row.entry - d2.entry),
        Pointwise(Value("other", (s, i)), g.entry * d2.entry * row.entry),
        outputs=("out", "other"),
    ),
    "a magnitude cancels": program(
        Magnitude(row, x.entry, (j,)),
        Pointwise(wide, x.entry / row.entry),
        Contract(d2, (wide.entry, wide.entry), (j,)),
        Pointwise(out, x.entry * row.entry * sympy.sqrt(d2.entry)),
    ),
    "sums of rows": program(
        Contract(Value("t", (j,)), (x.entry,), (s,)),
        Contract(Value("w", (j,)), (x.entry, f.entry, d.entry, f.entry), (s,)),
        outputs=("t", "w"),
    ),
    "a sum of rows along a row": program(
        Contract(Value("t", (j,)), (x.entry, f.entry), (s,)),
        Pointwise(out, x.entry - Value("t", (j,)).entry),
    ),
    "products of every orientation": program(
        Contract(Value("a", (s, i)), (x.entry, W.entry), (j,)),
        Contract(Value("c", (i, s)), (W.entry, x.entry), (j,)),
        Contract(Value("e", (i, j)), (x.entry, g.entry), (s,)),
        Contract(Value("h", (j, i)), (x.entry, g.entry), (s,)),
        outputs=("a", "c", "e", "h"),
    ),
    "torch carries out the rest": program(
        Contract(Value("a", (i,)), (W.entry, v.entry), (j,)),
        Pointwise(Value("q", (i, j)), W.entry * Value("a", (i,)).entry * kappa),
        Contract(Value("p2", (s, i)), (x.entry, Value("q", (i, j)).entry), (j,)),
        Pointwise(Value("z", (s, i)), Value("p2", (s, i)).entry * f.entry + b.entry),
    ),
    "names that C++ has taken": Program(
        "p",
        (Value("float", (s, j)), Value("k", (s,)), Value("sum", (j,))),
        (kappa,),
        (
            Contract(Value("row", (s,)), (Value("float", (s, j)).entry, Value("sum", (j,)).entry), (j,)),
            Pointwise(
                Value("V", (s, j)), Value("float", (s, j)).entry * Value("k", (s,)).entry + Value("row", (s,)).entry
            ),
        ),
        ("V", "row"),
    ),
}


@pytest.mark.parametrize("name", one_in(2, PROGRAMS))
def test_any_program_agrees_with_the_interpreter(host, name):
    agrees(host, PROGRAMS[name])


def test_a_length_of_no_tensor_is_refused():
    with pytest.raises(UsageError, match="p_out: m is not the length of any of its tensors"):
        printed(program(Pointwise(out, M * x.entry)), "p", "x")


def test_a_kernel_that_reads_and_writes_one_place_reads_each_entry_first(host):
    """The result overwrites the product's memory although two loops read it."""
    whole = program(
        Contract(Value("p2", (s, j)), (g.entry, W.entry), (i,)),
        Contract(row, (Value("p2", (s, j)).entry, x.entry), (j,)),
        Pointwise(out, Value("p2", (s, j)).entry * f.entry - row.entry * x.entry),
    )
    assert "out = kernels.over(p2)" in printed(whole, "p", "x").lines
    agrees(host, whole)


def test_a_product_that_is_read_later_keeps_its_memory(host):
    whole = program(
        Contract(Value("p2", (s, j)), (g.entry, W.entry), (i,)),
        Pointwise(out, Value("p2", (s, j)).entry * f.entry),
        Contract(Value("t", (j,)), (Value("p2", (s, j)).entry,), (s,)),
        outputs=("out", "t"),
    )
    assert not any("over(" in line for line in printed(whole, "p", "x").lines)
    agrees(host, whole)
