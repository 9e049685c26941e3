"""Steps and loops: what shares a kernel, what is recomputed, and the types in memory."""

import pytest
import sympy

from codegen.ir.program import Contract, Pointwise, Program, Value, name_of
from codegen.lower.gathering import lower
from codegen.passes.reassociate import gradients
from codegen.printing.c_storage import storage
from codegen.printing.launches import printed, variants
from codegen.schedule.hoist import hoisted
from codegen.schedule.row_loops import row_kernel
from codegen.schedule.rows import Columns, Plain, Product, Rows, schedule
from derive.algebra.index import Index, size_symbol
from derive.cancel import solve
from derive.layers import layer
from derive.properties import r
from tests.codegen.targets.cuda.conftest import chosen

PLANS = {plan.layer.name: plan for family in chosen() for plan in family.plans}
B, N, M = (size_symbol(name) for name in "Bnm")
s, i, j = Index("s", B), Index("i", M), Index("j", N)
x, y, W, b, c = Value("x", (s, j)), Value("y", (s, j)), Value("W", (i, j)), Value("b", (i,)), Value("c", (s,))
kappa = sympy.Symbol("kappa", positive=True)


def shape(program):
    """Return the steps as strings: a kernel's results, or the result of a product or of torch."""
    words = []
    for step in schedule(program):
        kind = type(step).__name__
        words.append((kind, step.outputs if isinstance(step, Rows) else step.instruction.target.name))
    return words


BACKWARD = {
    "affine-like": [("Product", "gW"), ("Rows", ("u", "dx")), ("Product", "dW"), ("Columns", "db")],
    "norm-like": [("Product", "gW"), ("Rows", ("u", "dx")), ("Product", "dW"), ("Columns", "db")],
    "linear/norm-like": [("Product", "gW"), ("Rows", ("u", "dx")), ("Product", "dW")],
}


@pytest.mark.parametrize("name", PLANS)
def test_a_pass_over_rows_waits_until_it_meets_the_next(name):
    plan = PLANS[name]
    assert shape(plan.scale) == [("Rows", ("f",))]
    assert shape(plan.forward) == [("Product", "xW"), ("Rows", ("z",))]
    assert shape(plan.backward.program) == BACKWARD[name]


def test_loops_of_the_row_term():
    """First g.b and u.(g W), then dx; u is recomputed in registers, and stored."""
    program = PLANS["affine-like"].backward.program
    (rows,) = (step for step in schedule(program) if isinstance(step, Rows))
    kernel = row_kernel(program, rows)
    loops = [
        (loop.axis.size.name, loop.loads, [p.target.name for p in loop.pointwise], loop.stores) for loop in kernel.loops
    ]
    assert loops == [
        ("m", ("g", "b"), [], ()),
        ("n", ("x", "gW"), ["u"], ("u",)),
        ("n", ("x", "gW"), ["u", "dx"], ("dx",)),
    ]
    assert [[p.target.name for p in loop.after] for loop in kernel.loops] == [[], ["c"], []]


def test_types_in_memory():
    program = PLANS["affine-like"].backward.program
    types = storage(program, schedule(program))
    wide = {name for name, kind in types.items() if kind == "Wide"}
    assert wide == {"f", "gW", "gb", "u_gW", "c"}, "u is read by a product, so it is an element"


def test_gradients_that_share_work_have_a_variant_for_each_choice():
    found = list(variants(PLANS["affine-like"].backward.program))
    assert found == [(("dx", "dW"), (("dx", "dW"), ("dx",), ("dW",))), (("db",), (("db",),))]


def test_what_does_not_vary_along_a_row_is_taken_out():
    ratio = Pointwise(y, x.entry * sympy.sqrt(kappa) / c.entry + sympy.exp(c.entry))
    found = hoisted([ratio], {"y_factor_2"})
    assert [p.target.name for p in found] == ["y_factor", "y_factor_3", "y"]
    factor, offset = (p.target.entry for p in sorted(found[:2], key=lambda p: p.expression.has(sympy.exp)))
    assert {p.expression for p in found[:2]} == {sympy.exp(c.entry), sympy.sqrt(kappa) / c.entry}
    assert found[2].expression == offset + factor * x.entry


def test_a_choice_by_cases_and_single_names_stay():
    plain = Pointwise(y, kappa * c.entry * x.entry)
    assert [p.target.name for p in hoisted([plain], set())] == ["y_factor", "y"]
    single = Pointwise(y, -3 * c.entry * x.entry)
    assert hoisted([single], set()) == (single,)


def test_what_no_kernel_does_is_left_to_torch():
    """A result computed from a sum over rows: the angle pi/3 scales the bias."""
    solved = solve(layer("affine"), sympy.pi / 3)["angle"]
    backward = gradients(lower(solved.mapped), ["b"]).program
    columns, plain = schedule(backward)
    assert isinstance(columns, Columns) and isinstance(plain, Plain)
    lines = printed(backward, "angle", "g").lines
    assert [line.split(" = ")[0] for line in lines if " = " in line] == [columns.instruction.target.name, "db"]
    assert "wide=True" in lines[0] and lines[-1].startswith("db = (") and ".to(g.dtype)" in lines[-1]


def test_every_value_is_computed_once_and_after_what_it_reads():
    for angle in (sympy.atan(2 * r), sympy.exp(-r), sympy.pi / 3):
        program = lower(solve(layer("affine"), angle)["angle"].mapped)
        for whole in (program, gradients(program, [v.name for v in program.inputs]).program):
            known = {v.name for v in whole.inputs}
            for step in schedule(whole):
                for instruction in step.instructions if isinstance(step, Rows) else (step.instruction,):
                    assert {name_of(e) for e in instruction.reads} <= known
                    assert instruction.target.name not in known
                    known.add(instruction.target.name)
            assert set(whole.values) == known


def test_contractions_that_are_no_row_sum():
    product = Contract(Value("z", (s, i)), (x.entry, W.entry), (j,))
    turned = Contract(Value("v", (i,)), (W.entry, Value("w", (j,)).entry), (j,))
    program = Program("p", (x, W, Value("w", (j,))), (), (product, turned), ("z", "v"))
    assert [type(step) for step in schedule(program)] == [Product, Plain]
