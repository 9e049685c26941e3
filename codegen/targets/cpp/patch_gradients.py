"""The arithmetic of the backward pass of a convolution's map in C++.

    incoming, bias          dh, the gradient with respect to the scaled part h, and its part of the bias's gradient
    beside, through         the terms added to the convolution, times dh; dE, the gradient through the scale
    input                   dx from x and the sums over patches

and for centred patches

    to_mean, through_mean   the part of dh in the mean's gradient, by the filters' sums; that gradient per entry
    to_filters, weight      the part of dh in the gradient of the filters' sums; dW from it and the products with x

The gradient through the scale needs the sum over o of g[o] h[o], where h is a convolution that is not kept. The
backward pass has dh = f g and W^T dh, and rewrites that sum:

    f sum[o](g[o]*h[o]) = sum[o](dh[o]*h[o]) = sum[c,k](x[c,k]*sum[o](W[o,c,k]*dh[o])) + sum[o](dh[o]*beside[o])

where the mean of a centred patch is subtracted from x[c,k] before the product, so that a common offset of a patch's
entries causes no rounding error.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr

from codegen.ir.program import Contract, Convolve, Instruction, Pointwise, Value, name_of
from codegen.plans.patches import PatchPlan
from codegen.printing.c_names import identifier
from codegen.schedule.patch_steps import Positions, steps
from codegen.targets.cpp.patch_parts import (
    ENTRY,
    NUMBER,
    PRINTER,
    Centring,
    Function,
    assigning,
    bias_of,
    centring,
    convolved,
    one,
)
from derive.errors import UsageError


class Gradients:
    """The parts of the backward pass, each identified by its operands."""

    def __init__(self, plan: PatchPlan) -> None:
        self._plan, self._program, self._means = plan, plan.backward, centring(plan)
        (self._source, weight), self._gradient = plan.input_names[:2], plan.backward.inputs[0].name
        self._against = one(plan, self._program, Contract, {self._gradient, plan.product})
        self._down = one(plan, self._program, Pointwise, {self._gradient, plan.scale_name})
        down = self._down.target.name
        self._turned = one(plan, self._program, Convolve, {down, weight})
        self._weight = one(plan, self._program, Convolve, {down, self._source})
        self._through = one(plan, self._program, Pointwise, {self._against.target.name, plan.scale_name})
        self._spread = one(plan, self._program, Convolve, {self._through.target.name})
        self._centred = _CentredGradients(plan, self._means, self._down, self._through) if self._means else None
        given = {self._source, self._turned.target.name, self._spread.target.name}
        self._input = one(plan, self._program, Pointwise, given | {s for s in self._spreads[1:] if s})
        self._check_nothing_else()

    @property
    def _spreads(self) -> tuple[str, str]:
        """Return the gradients with respect to the values summed over patches: the squares, and the entries or ""."""
        return self._spread.target.name, self._centred.spread.target.name if self._centred else ""

    def functions(self) -> tuple[Function, ...]:
        """Return the functions in the order of their calls."""
        scale, down, bias = self._plan.scale_name, self._down.target, bias_of(self._plan)
        total = Value(f"{down.name}_{self._plan.product}", self._against.target.indices)
        read = {_entry(self._through, self._against.target.name): total.entry / _entry(self._through, scale)}
        through = Pointwise(self._through.target, self._through.expression.xreplace(read), self._through.equation)
        given = (self._source, self._turned.target.name, *self._spreads)
        return (
            assigning("incoming", ENTRY, (scale, self._gradient), [self._down]),
            Function.of("bias", ENTRY, (down.name, self._gradient), [], self._to_bias()),
            Function.of("beside", ENTRY, (down.name, bias), [], PRINTER.text(down.entry * self._beside())),
            assigning("through", NUMBER, (scale, total.name), [through]),
            *(self._centred.functions(self._weight) if self._centred else ()),
            assigning("input", NUMBER, given, [self._input]),
        )

    def _beside(self) -> Expr:
        """Return the terms added to the convolution of patches, centred or not; raise ``UsageError`` for others."""
        made = self._program.producers[self._plan.product]
        rest = made.expression - convolved(self._plan).entry if isinstance(made, Pointwise) else sympy.S.Zero
        means, values = self._means, self._program.values
        rest = sympy.expand(rest + values[means.filters].entry * values[means.mean].entry if means else rest)
        product = _entry(self._down, self._plan.scale_name) * _entry(self._down, self._gradient)
        others = {name_of(e) for e in rest.atoms(sympy.Indexed)} - {bias_of(self._plan)}
        if others or sympy.expand(self._down.expression - product) != 0:
            raise UsageError(f"map {self._plan.layer.name!r}: its scale multiplies more than a convolution and a bias")
        return rest

    def _to_bias(self) -> str:
        """Return the entry whose sum is the gradient with respect to the bias, zero without a bias."""
        if not bias_of(self._plan):
            return "0"
        made = self._program.producers[self._program.outputs[2]]
        (operand,) = made.reads
        return identifier(name_of(operand))

    def _check_nothing_else(self) -> None:
        parts: list[Instruction] = [self._against, self._down, self._turned, self._weight, self._through, self._spread]
        parts += [self._input, *(self._centred.parts if self._centred else ())]
        means = self._means
        names = {convolved(self._plan).name, self._plan.product, *self._program.outputs}
        names |= {i.target.name for i in parts}
        names |= {means.entries, means.patch, means.mean, means.filters} if means else set()
        more = [i.target.name for i in self._program.instructions if i.target.name not in names]
        if more:
            raise UsageError(f"map {self._plan.layer.name!r}: no pass in C++ computes {more[0]!r}")


class _CentredGradients:
    """The additional parts of the backward pass for centred patches."""

    def __init__(self, plan: PatchPlan, means: Centring, down: Pointwise, through: Pointwise) -> None:
        self._plan, self._means, self._gradient, self._energy = plan, means, down.target.name, through.target.name
        program = plan.backward
        self._to_mean = one(plan, program, Contract, {self._gradient, means.filters})
        self._to_filters = one(plan, program, Contract, {self._gradient, means.mean})
        self._filters = one(plan, program, Pointwise, {self._to_filters.target.name})
        self._mean = one(plan, program, Pointwise, {self._energy, means.mean, self._to_mean.target.name})
        self._patch = one(plan, program, Pointwise, {self._mean.target.name})
        self.spread = one(plan, program, Convolve, {self._patch.target.name})

    @property
    def parts(self) -> Sequence[Instruction]:
        """Every instruction that is one of these parts."""
        return self._to_mean, self._to_filters, self._filters, self._mean, self._patch, self.spread

    def functions(self, weight: Convolve) -> tuple[Function, ...]:
        """Return the functions; ``weight`` holds the products of the gradient with the uncentred patches."""
        counted = [i for s in steps(self._plan.backward) if isinstance(s, Positions) for i in s.kernel.instructions]
        made = {i.target.name: i for i in counted if isinstance(i, Pointwise)}
        read = {self._filters.target.name, weight.target.name}
        result = one(self._plan, self._plan.backward, Pointwise, read)
        to_filters, to_mean = self._to_filters.target.name, self._to_mean.target.name
        patch = [made[self._mean.target.name], made[self._patch.target.name]]
        return (
            _product("to_mean", self._to_mean, (self._gradient, self._means.filters)),
            _product("to_filters", self._to_filters, (self._gradient, self._means.mean)),
            assigning("through_mean", NUMBER, (self._energy, self._means.mean, to_mean), patch),
            assigning("weight", ENTRY, (weight.target.name, to_filters), [self._filters, result]),
        )


def _product(name: str, total: Contract, parameters: Sequence[str]) -> Function:
    """Return the function that computes a sum's terms."""
    return Function.of(name, ENTRY, parameters, [], PRINTER.text(sympy.Mul(*total.operands)))


def _entry(instruction: Pointwise, name: str) -> Expr:
    return next(e for e in instruction.reads if name_of(e) == name)
