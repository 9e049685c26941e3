"""The map at an angle as programs that compute its scalars themselves, for kernels that work row by row.

    r                                   the length of a row, the one number per row that is saved
    turn = t(r),  turning = t'(r)       the angle and its slope; constant for lengths beyond ``limit``
    f = sqrt(kappa) Piecewise((series, r <= near), (formula, True)),   and likewise p, h, a, c

``near`` and ``limit`` are settings that depend on the precision; nothing else does. No formula is typed here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import sympy
from sympy import Expr, Indexed, Mul, Symbol

from codegen.ir.program import Contract, Instruction, Pointwise, Program, Value, name_of
from codegen.passes.ranges import range_safe
from codegen.passes.reassociate import Backward
from codegen.plans.angles import AnglePlan, Scalar, radius, turn, turning
from codegen.plans.rows import Plan
from derive.algebra.nodes import IndexedSum
from derive.forward_map import BATCH

near = Symbol("near", nonnegative=True)
limit = Symbol("limit", positive=True)
features = Symbol("features", positive=True)  # the size n, if the angle depends on it

_ROW = (BATCH,)
_LENGTH = Value("r", _ROW)
_ENERGY, _KEPT, _TURN, _TURNING, _SHRINK = (Value(n, _ROW) for n in ("E", "kept", "turn", "turning", "shrink"))


def row_plan(plan: AnglePlan) -> Plan:
    """Return the same map's plan for kernels of rows: its "scale" is the row's length, all that the programs read."""
    scalars = _scalars(plan)
    backward = _with_scalars(_products_of_given(plan.backward), scalars, plan)
    return Plan(
        name=plan.name,
        kind=plan.kind,
        layer=plan.layer,
        scale=range_safe(_length(plan), _LENGTH.name),
        plain_scale=_length(plan),
        forward=_with_scalars(plan.forward, scalars, plan),
        forward_scaled=_with_scalars(plan.forward_scaled, scalars, plan),
        backward=Backward(backward, (_LENGTH.name,), None),
        tangent=_with_scalars(plan.tangent, scalars, plan),
        kappa=plan.kappa,
        kappa_default=plan.kappa_default,
        kappa_above=plan.kappa_above,
        weight_deviation=plan.weight_deviation,
        digest=plan.digest,
    )


def _length(plan: AnglePlan) -> Program:
    """Return the program that computes the lengths of rows."""
    energy = plan.layer.definitions[0]
    total = energy.expression
    assert isinstance(total, IndexedSum)
    operands = [e for factor in Mul.make_args(total.body) for e in _repeated(factor)]
    source = plan.forward.values[name_of(operands[0])]
    squares = Contract(
        Value(energy.name, _ROW), tuple(operands), total.bound, f"{plan.layer.name}/define-{energy.name}"
    )
    length = Pointwise(_LENGTH, sympy.sqrt(squares.target.entry))
    return Program(plan.layer.name, (source,), (), (squares, length), (_LENGTH.name,))


def _repeated(factor: Expr) -> list[Indexed]:
    base, exponent = factor.as_base_exp()
    return [base] * int(exponent)


def _scalars(plan: AnglePlan) -> tuple[Pointwise, ...]:
    """Return the instructions that compute the angle and every scalar from the length."""
    r, sizes = _LENGTH.entry, _features(plan)
    angle, slope = (e.xreplace({radius: _KEPT.entry, **sizes}) for e in (plan.angle, plan.angle_slope))
    turned = {radius: r, turn: _TURN.entry, turning: _TURNING.entry, **sizes}
    return (
        Pointwise(_KEPT, sympy.Piecewise((limit, sympy.Gt(r, limit)), (r, True))),
        Pointwise(_TURN, angle),
        Pointwise(_TURNING, sympy.Piecewise((slope, sympy.Lt(r, limit)), (sympy.S.Zero, True))),
        Pointwise(_ENERGY, r**2),
        Pointwise(_SHRINK, _shrink(r, plan.power)),
        *(_joined(scalar, plan, turned) for scalar in plan.scalars),
    )


def _features(plan: AnglePlan) -> dict[Expr, Expr]:
    """Return the replacements of the sizes that the angle uses."""
    return {s: features for s in plan.angle.free_symbols if s.is_integer}


def _shrink(r: Expr, power: int) -> Expr:
    """Return 1/rho without squaring a large number or inverting a small one."""
    if power == 1:
        return sympy.Piecewise((sympy.S.Zero, sympy.Eq(r, 0)), (1 / r, True))
    return sympy.Piecewise((1 / sympy.sqrt(r**2 + 1), sympy.Lt(r, 1)), (1 / (r * sympy.sqrt(1 + r**-2)), True))


def _joined(scalar: Scalar, plan: AnglePlan, turned: dict[Expr, Expr]) -> Pointwise:
    """Return a scalar of the row: its series for r <= near, else its formula."""
    terms, variable = _terms(scalar), (_LENGTH if plan.power == 1 else _ENERGY).entry
    total = terms[-1]
    for coefficient in reversed(terms[:-1]):
        total = coefficient + variable * total
    formula = scalar.formula.xreplace(turned)
    cases = sympy.Piecewise((total, sympy.Le(_LENGTH.entry, near)), (formula, True))
    return Pointwise(Value(scalar.name, _ROW), sympy.sqrt(plan.kappa) * cases)


def _terms(scalar: Scalar) -> tuple[Expr, ...]:
    """Return the coefficients in use; those that are not numbers become settings, such as ``f_0``."""
    names = coefficient_names(scalar)
    used = scalar.series if len(scalar.series) == 1 else scalar.series[:-1]
    return tuple(c if c.is_number else Symbol(name) for c, name in zip(used, names, strict=False))


def coefficient_names(scalar: Scalar) -> list[str]:
    """Return the names of a series' coefficients as settings."""
    return [f"{scalar.name}_{k}" for k, _ in enumerate(scalar.series)]


def _with_scalars(program: Program, scalars: Sequence[Pointwise], plan: AnglePlan) -> Program:
    """Return the program with its scalars computed from the length of the row."""
    made = {i.target.name for i in scalars}
    kept = [v for v in program.inputs if v.name not in made]
    settings = (plan.kappa, near, limit, features, *(Symbol(n) for c in plan.scalars for n in coefficient_names(c)))
    whole = Program(program.name, (*kept, _LENGTH), settings, (*scalars, *program.instructions), program.outputs)
    return whole.restricted(program.name, program.outputs)


def _products_of_given(program: Program) -> Program:
    """Return the program with matrix products that read the cotangent itself, not the cotangent scaled by a column.

    For example ``(p g)^T u`` becomes ``g^T (p u)``, which writes one matrix fewer and rounds once less.
    """
    made = [part for instruction in program.instructions for part in _regrouped(instruction, program)]
    regrouped = replace(program, instructions=tuple(made))
    return regrouped.restricted(program.name, program.outputs)


def _regrouped(instruction: Instruction, program: Program) -> Iterable[Instruction]:
    if not isinstance(instruction, Contract) or len(instruction.target.indices) < 2:
        return [instruction]
    cotangent = program.inputs[0].name
    for operand, other in itertools.permutations(instruction.operands):
        made = program.producers.get(name_of(operand))
        if name_of(other) not in program.producers or not isinstance(made, Pointwise):
            continue
        columns, wholes = ([e for e in made.reads if len(e.indices) == axes] for axes in (1, 2))
        if [name_of(e) for e in wholes] == [cotangent] and made.expression == wholes[0] * Mul(*columns):
            along = dict(zip(made.target.indices, operand.indices, strict=True))
            *columns, whole = (e.base[tuple(along[i] for i in e.indices)] for e in (*columns, *wholes))
            scaled = Value("_".join(map(name_of, (*columns, other))), other.indices)
            return [Pointwise(scaled, Mul(*columns, other)), replace(instruction, operands=(whole, scaled.entry))]
    return [instruction]
