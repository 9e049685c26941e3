"""The file of one map of a layer of any form in Triton: one program per sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from codegen.ir.program import Program
from codegen.passes.accumulation import Types
from codegen.plans.layers import LayerPlan
from codegen.printing.sample_files import SampleFile, called_with, listed
from codegen.printing.sample_loops import SampleKernel
from codegen.schedule.samples import Walk
from codegen.targets.triton.sample_loops import ProgramPrinter


def layer_map_context(plan: LayerPlan) -> dict[str, Any]:
    """Return the context of ``layer_kernels.jinja`` and ``layer_map.py.jinja``.

    Raises ``UsageError`` for a map whose arithmetic the kernels do not support.
    """
    context = _KernelFile(plan).context()
    functions = sorted({name for kernel in context["kernels"] for name in kernel["helpers"]})
    return {
        **context,
        "functions": functions,
        "target": "triton",
        "place": "by Triton",
        "language": "Triton",
        "launch": "samples",
        "helpers": ["ready_for", "walk"],
        "unchecked": ", import-untyped, no-untyped-call, no-untyped-def, untyped-decorator",
        "ready": "ready_for",
        "found": "",
    }


class _KernelFile(SampleFile):
    """The kernels of one plan in Triton."""

    def made(self, program: Program, walk: Walk, types: Types, name: str) -> SampleKernel:
        """Return the kernel of a loop over samples."""
        return ProgramPrinter(program, walk, types, self.integers).kernel(name)

    def called(self, program: Program, walk: Walk, kernel: SampleKernel, own: str, wide: Iterable[str]) -> list[str]:
        """Return the lines that allocate a kernel's outputs, call it, and store the sums over samples."""
        arguments = [
            kernel.name,
            listed([self.names.text(size) for size in kernel.lengths]),
            listed(kernel.tensors),
            listed(kernel.scalars),
            listed([self.names.text(size) for size in kernel.inner]),
            listed([self.shape(program.values[name]) for name in kernel.totals]),
        ]
        results = [name for name in walk.results if name not in kernel.totals]
        lines = self.room(program, walk, results, own, wide)
        first, *rest = called_with("walk", arguments)
        lines += [(f"{listed(kernel.totals)} = " if kernel.totals else "") + first, *rest]
        return [*lines, *(f"{name} = {name}.to({own}.dtype)" for name in kernel.totals if name not in wide)]
