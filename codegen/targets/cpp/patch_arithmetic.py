"""The arithmetic of a map of a convolution in C++: what happens to an entry, and to the one number of a position.

    add, total, scale       squares over the channels, what is too small among their sums, the scale of a patch
    output                  z from the scale, the convolution xW and b
    incoming, bias          dh, the gradient of what the scale multiplies, and what it adds to that by b
    beside, through         what is added to the convolution, times dh; dE, the gradient through the scale
    input                   dx from x and the sums over patches

The gradient through the scale reads the sum over o of g[o] h[o], where h is a convolution that nobody keeps. The
backward pass has dh = f g and W^T dh, and reads that sum backwards:

    f sum[o](g[o]*h[o]) = sum[o](dh[o]*h[o]) = sum[c,k](x[c,k]*sum[o](W[o,c,k]*dh[o])) + sum[o](dh[o]*beside[o])

The sums themselves stand in ``runtime/patch_passes.h``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import sympy
from sympy import Expr

from codegen.ir.program import Contract, Convolve, Pointwise, Value, name_of
from codegen.plans.patches import PatchPlan
from codegen.printing.c_kernels import accumulated, assigned
from codegen.printing.c_names import identifier
from codegen.printing.c_scalars import ScalarPrinter
from codegen.schedule.patch_steps import Positions, steps, with_scale
from derive.errors import UsageError

_Kind = TypeVar("_Kind", Contract, Convolve, Pointwise)

ENTRY, NUMBER = "Element", "Wide"  # types: of an entry, and of one number a position
_PRINTER = ScalarPrinter(lambda entry: identifier(name_of(entry)))


@dataclass(frozen=True)
class Function:
    """A function of C++: its name, the type of all that it reads and returns, its parameters, lines and result."""

    name: str
    kind: str
    parameters: tuple[str, ...]
    lines: tuple[str, ...]
    result: str

    @property
    def signature(self) -> str:
        """The parameters with their types; one that no line reads has no name."""
        read = set(re.findall(r"\w+", " ".join((*self.lines, self.result))))
        return ", ".join(f"{self.kind} {p}" if p in read else self.kind for p in self.parameters)


def arithmetic(plan: PatchPlan) -> tuple[Function, ...]:
    """Return the functions of a map; raise ``UsageError`` for one that is not a convolution scaled by its patches."""
    return (*_forward(plan), *_Backward(plan).functions())


def _forward(plan: PatchPlan) -> tuple[Function, ...]:
    squares = {i.target.name for i in plan.scale.instructions}
    found = [s for s in steps(with_scale(plan.scale, plan.forward), squares) if isinstance(s, Positions)]
    if [[t.box for t in s.taps] for s in found] != [[], [True]] or any(len(s.kernel.loops) != 1 for s in found):
        raise UsageError(f"map {plan.layer.name!r}: its scale is not made of one sum over the patch")
    (pixels,), (positions,) = (s.kernel.loops for s in found)
    (total,), (squared,) = pixels.sums, pixels.after
    before = found[1].kernel.before
    source, bias = plan.input_names[0], _bias(plan)
    convolved = _convolved(plan).name
    return (
        _function("add", NUMBER, (total.target.name, source), [accumulated(total, _PRINTER)], total.target.name),
        _assigning("total", NUMBER, (total.target.name,), [squared]),
        _assigning("scale", NUMBER, (found[1].taps[0].target,), before, plan.scale_name),
        _assigning("output", ENTRY, (plan.scale_name, convolved, bias), positions.pointwise, plan.forward.outputs[0]),
    )


class _Backward:
    """The parts of the backward pass by what they are, each found by what it reads."""

    def __init__(self, plan: PatchPlan) -> None:
        self._plan, self._program = plan, plan.backward
        (self._source, weight), self._gradient = plan.input_names[:2], plan.backward.inputs[0].name
        self._against = self._one(Contract, {self._gradient, plan.product})
        self._down = self._one(Pointwise, {self._gradient, plan.scale_name})
        self._turned = self._one(Convolve, {self._down.target.name, weight})
        self._weight = self._one(Convolve, {self._down.target.name, self._source})
        self._through = self._one(Pointwise, {self._against.target.name, plan.scale_name})
        self._spread = self._one(Convolve, {self._through.target.name})
        self._input = self._one(Pointwise, {self._source, self._turned.target.name, self._spread.target.name})
        self._check_nothing_else()

    def functions(self) -> tuple[Function, ...]:
        """Return the functions in the order in which the passes call them."""
        scale, down, bias = self._plan.scale_name, self._down.target, _bias(self._plan)
        total = Value(f"{down.name}_{self._plan.product}", self._against.target.indices)
        read = {self._entry(self._through, self._against.target.name): total.entry / self._entry(self._through, scale)}
        through = Pointwise(self._through.target, self._through.expression.xreplace(read), self._through.equation)
        given = (self._source, self._turned.target.name, self._spread.target.name)
        return (
            _assigning("incoming", ENTRY, (scale, self._gradient), [self._down]),
            _function("bias", ENTRY, (down.name, self._gradient), [], self._to_bias()),
            _function("beside", ENTRY, (down.name, bias), [], _PRINTER.text(down.entry * self._beside())),
            _assigning("through", NUMBER, (scale, total.name), [through]),
            _assigning("input", NUMBER, given, [self._input]),
        )

    def _one(self, kind: type[_Kind], reads: set[str]) -> _Kind:
        """Return the instruction of a kind that reads just these; raise ``UsageError`` if there is not one."""
        every = [i for i in self._program.instructions if isinstance(i, kind)]
        found = [i for i in every if {name_of(e) for e in i.reads} == reads]
        if len(found) != 1:
            listed = " and ".join(sorted(reads))
            raise UsageError(f"map {self._plan.layer.name!r}: {len(found)} steps of a gradient read {listed}, not one")
        return found[0]

    def _entry(self, instruction: Pointwise, name: str) -> Expr:
        return next(e for e in instruction.reads if name_of(e) == name)

    def _beside(self) -> Expr:
        """Return what is added to the convolution in the product; raise ``UsageError`` if it is no such sum."""
        convolved = _convolved(self._plan)
        made = self._program.producers[self._plan.product]
        rest = sympy.expand(made.expression - convolved.entry) if isinstance(made, Pointwise) else sympy.S.Zero
        product = self._entry(self._down, self._plan.scale_name) * self._entry(self._down, self._gradient)
        others = {name_of(e) for e in rest.atoms(sympy.Indexed)} - {_bias(self._plan)}
        if others or sympy.expand(self._down.expression - product) != 0:
            raise UsageError(f"map {self._plan.layer.name!r}: its scale multiplies more than a convolution and a bias")
        return rest

    def _to_bias(self) -> str:
        """Return the entry whose sum is the gradient with respect to the bias, zero without a bias."""
        if not _bias(self._plan):
            return "0"
        made = self._program.producers[self._program.outputs[2]]
        (operand,) = made.reads
        return identifier(name_of(operand))

    def _check_nothing_else(self) -> None:
        parts = (self._against, self._down, self._turned, self._weight, self._through, self._spread, self._input)
        names = {i.target.name for i in parts} | {_convolved(self._plan).name, self._plan.product}
        names |= set(self._program.outputs)
        more = [i.target.name for i in self._program.instructions if i.target.name not in names]
        if more:
            raise UsageError(f"map {self._plan.layer.name!r}: no pass in C++ computes {more[0]!r}")


def _convolved(plan: PatchPlan) -> Value:
    """Return the convolution of input and weight; raise ``UsageError`` if there is not one."""
    found = [i.target for i in plan.forward.instructions if isinstance(i, Convolve) and len(i.operands) == 2]
    if len(found) != 1:
        raise UsageError(f"map {plan.layer.name!r}: it has {len(found)} convolutions with parameters, not one")
    return found[0]


def _bias(plan: PatchPlan) -> str:
    return plan.input_names[2] if len(plan.input_names) > 2 else ""


def _assigning(
    name: str, kind: str, parameters: Sequence[str], instructions: Sequence[Pointwise], result: str = ""
) -> Function:
    """Return the function that carries out instructions; its result is the last of them, or that of a name."""
    lines = [assigned(i, _PRINTER) for i in instructions]
    return _function(name, kind, parameters, lines, result or instructions[-1].target.name)


def _function(name: str, kind: str, parameters: Sequence[str], lines: Sequence[str], result: str) -> Function:
    return Function(name, kind, tuple(identifier(p) if p else "" for p in parameters), tuple(lines), result)
