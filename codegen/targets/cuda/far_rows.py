"""The kernels of a forward pass that also compute far rows in range; see ``codegen.passes.row_units``.

    .._f    writes f_u in addition to f; rows whose f_u is larger are far
    .._z    computes the product of a far row itself, in the row's unit; the library's product may have overflowed

Far rows cost time, but the host never waits to look for them, and no bit of another row changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from codegen.ir.program import Contract, Pointwise, Program, name_of
from codegen.passes.row_units import RowUnits, row_units
from codegen.plans.rows import Plan
from codegen.printing.c_kernels import Kernel, assigned, pointer_parameters
from codegen.printing.c_names import check_distinct, identifier
from codegen.printing.c_scalars import ScalarPrinter
from codegen.printing.c_storage import WIDE, is_column
from codegen.printing.launches import Printed, StepPrinter, printed
from codegen.schedule.rows import Rows

_PRINTER = ScalarPrinter(lambda entry: identifier(name_of(entry)))


def forward_pass(plan: Plan, prefix: str, own: str) -> list[Printed]:
    """Return the lines and kernels of the scale and of the output."""
    units = row_units(plan.scale, plan.forward)
    if units is None:
        return [printed(program, prefix, own) for program in (plan.scale, plan.forward)]
    scale = _ScalePrinter(plan.scale, prefix, own, units).printed()
    return [scale, _OutputPrinter(plan.forward, prefix, own, units, plan.scale.outputs[0]).printed()]


class _ScalePrinter(StepPrinter):
    """Prints the scale of rows, which is also written in each row's unit."""

    def __init__(self, program: Program, prefix: str, own: str, units: RowUnits) -> None:
        super().__init__(program, prefix, own)
        self._units = units

    def _rows(self, step: Rows) -> list[str]:
        return [*self._allocated(self._units.scaled, step), *super()._rows(step)]

    def _row_kernel(self, step: Rows) -> Kernel:
        units, kernel = self._units, super()._row_kernel(step)
        (name,) = self._program.outputs
        own = self._program.producers[name]
        assert isinstance(own, Pointwise)
        *loops, last = kernel.context["loops"]
        former = assigned(own, _PRINTER)
        assert former in last["after"]
        back = replace(
            own, expression=units.scaled.entry * units.unit.entry
        )  # valid even if the length itself overflows
        lines = {
            "loops": [*loops, {**last, "after": [line for line in last["after"] if line != former]}],
            "units": [
                f"const Wide {identifier(units.unit.name)} = unit_of({identifier(units.peak.name)});",
                *(assigned(i, _PRINTER) for i in (*units.steps, back)),
            ],
            "results": [*kernel.context["results"], identifier(units.scaled.name)],
        }
        parameters = pointer_parameters([units.scaled], {units.scaled.name: WIDE}, const=False)
        return _with(kernel, parameters, [units.scaled.name], lines)


class _OutputPrinter(StepPrinter):
    """Prints the output of rows; far ones are computed in their own units."""

    def __init__(self, program: Program, prefix: str, own: str, units: RowUnits, scale: str) -> None:
        super().__init__(program, prefix, own)
        self._units, self._scale = units, scale

    def _row_kernel(self, step: Rows) -> Kernel:
        units, kernel = self._units, super()._row_kernel(step)
        (product,) = (i for i in self._program.instructions if isinstance(i, Contract))
        (inner,), output = product.summed, units.output.target
        row, other = sorted(product.operands, key=lambda o: output.indices[1] in o.indices)
        assert tuple(row.indices) == (output.indices[0], inner) and tuple(other.indices) == (output.indices[1], inner)
        columns = {output.name, units.scaled.name, units.unit.name, product.target.name}
        read = dict.fromkeys(name for name in map(name_of, units.output.reads) if name not in columns)
        assert all(len(v.indices) == 1 and not is_column(v) for v in map(self._program.values.get, read) if v)
        lines = {
            "far": {
                "scale": identifier(self._scale),
                "scaled": identifier(units.scaled.name),
                "unit": identifier(units.unit.name),
                "length": identifier(str(inner.size)),
                "outputs": kernel.context["loops"][0]["length"],
                "row": identifier(name_of(row)),
                "other": identifier(name_of(other)),
                "product": identifier(product.target.name),
                "entries": [identifier(name) for name in read],
                "line": assigned(units.output, _PRINTER),
                "output": identifier(output.name),
            }
        }
        factors = [self._program.values[name_of(o)] for o in (row, other)]
        types = {units.scaled.name: WIDE, **{v.name: self._types[v.name] for v in factors}}
        parameters = [
            *pointer_parameters([units.scaled, *factors], types),
            f"const Offset {identifier(str(inner.size))}",
        ]
        names = [units.scaled.name, *(v.name for v in factors), self._length(inner.size)]
        return _with(kernel, parameters, names, lines)


def _with(kernel: Kernel, parameters: Sequence[str], tensors: Sequence[str], lines: Mapping[str, Any]) -> Kernel:
    """Return a kernel with additional arguments between its tensors and settings, and additional template lines."""
    given = kernel.context["parameters"]
    behind = len(given) - len(kernel.scalars)
    context = {**kernel.context, **lines, "parameters": [*given[:behind], *parameters, *given[behind:]]}
    check_distinct(kernel.name, [text.split()[-1].lstrip("*") for text in context["parameters"]])
    return replace(kernel, tensors=(*kernel.tensors, *tensors), context=context)
