"""Scalar expressions and instructions as lines of a kernel, and refusals with their reasons."""

import dataclasses

import pytest
import sympy

import derive
from codegen.ir.program import Contract, Magnitude, Pointwise, Program, Value
from codegen.plans.rows import plan
from codegen.targets.triton.expressions import Constants, TileExpressionPrinter
from codegen.targets.triton.printer import TilePrinter
from codegen.targets.triton.roles import Roles, ScheduleError, roles
from codegen.targets.triton.schedule import schedule
from derive.algebra.index import Index, size_symbol
from derive.errors import UsageError
from derive.forward_map import BATCH

B, N, M = BATCH.size, size_symbol("n"), size_symbol("m")
s, i, j = BATCH, Index("i", M), Index("j", N)
x, W, b, g, f = Value("x", (s, j)), Value("W", (i, j)), Value("b", (i,)), Value("g", (s, i)), Value("f", (s,))
q, z, u = Value("q", (s,)), Value("z", (s, i)), Value("u", (s, j))
kappa = sympy.Symbol("kappa", positive=True)
ROLES = Roles(B, N, M)


@pytest.mark.parametrize(
    ("expression", "text", "constants"),
    [
        (
            sympy.sqrt(kappa) / sympy.sqrt(q.entry + 1),
            "sqrt_kappa / tl.sqrt(q + 1)",
            {"sqrt_kappa": "math.sqrt(kappa)"},
        ),
        (q.entry / (kappa - 1), "q / kappa_minus_1", {"kappa_minus_1": "kappa - 1"}),
        (q.entry**2 * f.entry, "f * (q * q)", {}),
        (1 / q.entry**2, "1 / q / q", {}),
        (1 / q.entry**3, "1 / q / q / q", {}),
        (q.entry ** sympy.Rational(3, 2), "q * tl.sqrt(q)", {}),
        (q.entry ** sympy.Rational(-1, 2), "1 / tl.sqrt(q)", {}),
        (q.entry ** sympy.Rational(1, 3), "tl.exp((1 / 3) * tl.log(q))", {}),
        (sympy.sin(2 * q.entry) - sympy.cos(q.entry), "tl.sin(2 * q) - tl.cos(q)", {}),
        (sympy.exp(-q.entry), "tl.exp(-q)", {}),
        (sympy.log(q.entry), "tl.log(q)", {}),
        (sympy.tanh(q.entry), "tanh(q)", {}),
        (abs(q.entry), "tl.abs(q)", {}),
        (sympy.Max(q.entry, 0), "tl.maximum(0, q, propagate_nan=tl.PropagateNan.ALL)", {}),
        (sympy.Piecewise((sympy.oo, sympy.Eq(q.entry, 0)), (q.entry, True)), 'tl.where(q == 0, float("inf"), q)', {}),
        (
            sympy.Piecewise((q.entry, sympy.Le(q.entry, kappa)), (0, True)),
            "tl.where(kappa >= q, q, 0)",
            {"kappa": "kappa"},
        ),
        (sympy.Heaviside(q.entry - 1), "tl.where(q - 1 > 0, 1.0, tl.where(q - 1 < 0, 0.0, 0.5))", {}),
        (sympy.atan(q.entry), "atan(q)", {}),
        (q.entry * sympy.exp(kappa), "exp_kappa * q", {"exp_kappa": "math.exp(kappa)"}),
    ],
)
def test_expression(expression, text, constants):
    gathered = Constants()
    printer = TileExpressionPrinter(lambda e: str(e.base.label), gathered)
    assert printer.text(expression) == text
    assert dict(gathered.items) == constants


def test_a_function_that_cannot_be_printed_is_named():
    with pytest.raises(UsageError, match="cannot print gamma"):
        TileExpressionPrinter(str, Constants()).text(sympy.gamma(q.entry))


@pytest.mark.parametrize(
    ("instruction", "line"),
    [
        (Pointwise(u, f.entry * x.entry), "u = f[:, None] * x"),
        (Pointwise(z, f.entry * g.entry + b.entry, "m/z"), "z = f[:, None] * g + b[None, :]  # m/z"),
        (Contract(q, (x.entry, x.entry), (j,)), "q += tl.sum(x * x, axis=1)"),
        (Contract(q, (g.entry, b.entry), (i,)), "q += tl.sum(b[None, :] * g, axis=1)"),
        (Contract(q, (g.entry,), (i,)), "q += tl.sum(g, axis=1)"),
        (Contract(b, (f.entry, g.entry), (s,)), "b = tl.sum(f[:, None] * g, axis=0)"),
        (Magnitude(q, x.entry, (j,)), "q = tl.maximum(tl.max(tl.abs(x), axis=1), q)"),
    ],
)
def test_line(instruction, line):
    assert TilePrinter(ROLES, []).lines([instruction], onward=True) == [line]


def test_products_lay_their_operands_so_that_the_sum_is_inside():
    printer = TilePrinter(ROLES, [x, W, g])
    forward = Contract(z, (W.entry, x.entry), (j,))
    assert printer.product(forward) == ["z = dot(x_tile, W_tile, z, PRECISION)"]
    assert printer.tile_loads(forward) == [
        "x_tile = load(x_ptr, rows, columns, x_s, x_j, B, n)",
        "W_tile = load(W_ptr, columns, units, W_j, W_i, n, m)",
    ]
    weight = Contract(Value("dW", (i, j)), (g.entry, u.entry), (s,))
    assert printer.product(weight) == ["dW = dot(g_tile, u.to(g_tile.dtype), dW, PRECISION)"]
    assert printer.tile_loads(weight) == ["g_tile = load(g_ptr, units, rows, g_i, g_s, m, B)"]


def test_a_name_that_kernels_use_is_refused():
    with pytest.raises(ScheduleError, match="'rows', which the triton target uses itself"):
        TilePrinter(ROLES, []).lines([Pointwise(Value("rows", (s,)), f.entry)])


def test_two_axes_of_one_length_have_no_roles():
    square = Program("p", (x, Value("W", (j, j.fresh()))), (), (Pointwise(u, 2 * x.entry),), ("u",))
    with pytest.raises(ScheduleError, match="two different declared sizes; use torch"):
        roles(square)


def test_an_axis_without_a_role_is_named():
    with pytest.raises(ScheduleError, match="no loop for an axis of length k"):
        ROLES.of([Index("k", size_symbol("k"))])


@pytest.fixture(scope="module")
def affine():
    return plan(derive.solve(derive.layer("affine"))["affine-like"])


def test_walks_of_the_scale_and_of_the_input_gradient(affine):
    parts = schedule(affine.scale, affine.forward, affine.backward.program)
    names = [([i.target.name for i in p.before], [i.target.name for i in p.tiles]) for p in parts.scale_passes]
    assert names == [([], ["peak"]), ([], ["y", "q"]), (["f"], [])]
    names = [([i.target.name for i in p.before], [i.target.name for i in p.tiles]) for p in parts.finish_passes]
    assert names == [([], ["u", "u_gW"]), (["c"], ["u", "dx"])]


def test_every_instruction_has_its_kernel(affine):
    parts = schedule(affine.scale, affine.forward, affine.backward.program)
    product, weight, rows = parts.forward, parts.weight, parts.gradient_rows
    assert {*product.before, product.contract, *product.after} == set(affine.forward.instructions)
    backward = {parts.input_product, *parts.finish, *weight.before, weight.contract, *weight.after}
    assert backward | {*rows.before, *rows.tiles} == set(affine.backward.program.instructions)
    walked = [i for p in parts.scale_passes for i in (*p.before, *p.tiles)]
    assert set(walked) == set(affine.scale.instructions)


def replaced(program, name, change):
    steps = tuple(change(step) if step.target.name == name else step for step in program.instructions)
    return dataclasses.replace(program, instructions=steps)


def test_what_is_not_linear_cannot_follow_a_sum_that_is_taken_in_parts(affine):
    backward = affine.backward.program
    (db,) = (step for step in backward.instructions if step.target.name == "db")
    total = Value("total", db.target.indices)
    steps = [s for s in backward.instructions if s is not db]
    steps += [dataclasses.replace(db, target=total), Pointwise(db.target, total.entry**2)]
    squared = dataclasses.replace(backward, instructions=tuple(steps))
    with pytest.raises(ScheduleError, match="sums 'db' in parts"):
        schedule(affine.scale, affine.forward, squared)


def test_a_program_without_a_product_of_matrices_is_refused(affine):
    no_product = replaced(affine.forward, "xW", lambda step: Pointwise(step.target, 2 * b.at(step.target.indices[1:])))
    with pytest.raises(ScheduleError, match="exactly one matrix product for 'z', not 0"):
        schedule(affine.scale, no_product, affine.backward.program)
