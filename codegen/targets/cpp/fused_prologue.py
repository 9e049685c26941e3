"""Fuse everything that a backward pass needs before its first matrix product into one pass over the rows.

    gb = sum[i](b[i]*g[s,i])     a scalar of a row that a later kernel reads
    u = f*x                      a matrix that a product reads
    db = sum[s](f[s]*g[s,i])     a sum over rows

Unfused, each of them would be a separate call, and most would read the same rows again. The pass contains every
instruction that works inside rows or sums over rows and depends on no product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from codegen.ir.program import Contract, Instruction, Program, name_of
from codegen.printing.c_kernels import Kernel, column_text, length_parameters, pointer_parameters, row_text
from codegen.printing.c_storage import is_column
from codegen.printing.launches import noted
from codegen.schedule.rows import Columns, Product, Rows, is_row_work, is_wide_pointwise, outside
from codegen.targets.cpp.wrappers import HostPrinter, Pass, together
from derive.forward_map import BATCH


@dataclass(frozen=True)
class Head:
    """The work before the products: names of scalars of rows, scratch matrices, and the one sum over rows."""

    scalars: tuple[str, ...]
    scratch: tuple[str, ...]
    total: str


def head(program: Program) -> Head | None:
    """Return the work that a backward pass can fuse into one pass; None unless it has at least a matrix and a sum."""
    free = _independent(program)
    steps = {i.target.name: outside(i) for i in free if not is_row_work(i)}
    factors = {name_of(o) for i in program.instructions if isinstance(outside(i), Product) for o in i.reads}
    scalars = tuple(i.target.name for i in free if isinstance(i, Contract) and is_column(i.target) and is_row_work(i))
    scratch = tuple(i.target.name for i in free if is_wide_pointwise(i) and i.target.name in factors)
    totals = [name for name, step in steps.items() if isinstance(step, Columns) and name in program.outputs]
    return Head(scalars, scratch, totals[0]) if scratch and len(totals) == 1 else None


def _independent(program: Program) -> list[Instruction]:
    """Return the instructions that depend on no matrix product."""
    after = {i.target.name for i in program.instructions if isinstance(outside(i), Product)}
    found = []
    for instruction in program.instructions:
        if instruction.target.name in after or {name_of(e) for e in instruction.reads} & after:
            after.add(instruction.target.name)
        else:
            found.append(instruction)
    return found


def joint(program: Program, first: Head, prefix: str, own: str) -> Pass:
    """Return the lines of all gradients, for calls that want every one, and their kernels."""
    start = program.restricted(program.name, (*first.scalars, *first.scratch, first.total))
    parts = [JointPrinter(start, prefix, own).opened(first)]
    named = "_given_".join((prefix, *first.scalars))
    spare = {tuple(i.size for i in program.values[n].indices): n for n in first.scratch}
    for output in (*program.outputs[1:], program.outputs[0]):
        if output != first.total:
            known = first.scalars if output == program.outputs[0] else (*first.scalars, *first.scratch)
            parts.append(HostPrinter(_given(program, known, output), named, own, spare).printed())
    return together(parts)


def _given(program: Program, known: tuple[str, ...], output: str) -> Program:
    """Return the program of one gradient from known values; others are recomputed."""
    inputs = (*program.inputs, *(program.values[name] for name in known))
    left = tuple(i for i in program.instructions if i.target.name not in known)
    return replace(program, inputs=inputs, instructions=left, outputs=(output,)).restricted(program.name, (output,))


class JointPrinter(HostPrinter):
    """Prints the fused pass over rows at the beginning of a backward pass."""

    def opened(self, first: Head) -> Pass:
        """Return the line that runs the kernel, and the lines before it."""
        program, outputs = self._program, (*first.scalars, *first.scratch)
        inside = tuple(i for i in program.instructions if is_row_work(i))
        rows = row_text(program, Rows(inside, outputs), self._types, self._prefix, dense=True)
        (total,) = (s for s in map(outside, program.instructions) if isinstance(s, Columns) and _makes(s, first.total))
        columns = column_text(program, total, self._types, self._prefix, dense=True)
        kernel = self._joined(rows, columns, first.total, {i.target.name for i in inside})
        batch = self._sizes[BATCH.size]
        for name in first.scalars:
            self._made("column", program.values[name], batch)
        for name in first.scratch:
            value = program.values[name]
            self._made("matrix", value, batch, self._length(value.indices[1].size))
        value = program.values[first.total]
        self._made("vector", value, self._length(value.indices[0].size))
        settings = [str(s) for s in kernel.scalars]
        call = self._launched(
            "joint", kernel, (*rows.tensors, *settings, *kernel.tensors[len(rows.tensors) :], first.total)
        )
        self._kernels.append(kernel)
        return self._as_pass(noted(call, total.instruction.equation))

    def _joined(self, rows: Kernel, columns: Kernel, total: str, made: set[str]) -> Kernel:
        """Return the kernel of rows with a sum over them; values that it computes (``made``) are not read again."""
        missing = [name for name in columns.tensors if name not in {*rows.tensors, *made}]
        lengths = tuple(dict.fromkeys((*rows.lengths, *columns.lengths)))
        reads = zip(columns.tensors, columns.context["reads"], strict=True)
        context = {
            **rows.context,
            "kind": "joint",
            "name": f"{rows.name}_{total}",
            "parameters": [
                *length_parameters(lengths),
                *rows.context["parameters"][1 + len(rows.lengths) :],
                *pointer_parameters([self._program.values[name] for name in missing], self._types, dense=True),
            ],
            "width": columns.context["width"],
            "reads": [line for name, line in reads if name not in made],
            "line": columns.context["line"],
            "type": columns.context["type"],
        }
        return Kernel(context["name"], lengths, (*rows.tensors, *missing), rows.scalars, context)


def _makes(step: Columns, name: str) -> bool:
    return step.instruction.target.name == name
