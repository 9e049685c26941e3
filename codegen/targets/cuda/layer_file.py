"""The files of one map of a layer of any form in CUDA C++: one block of threads per sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from codegen.ir.program import Program
from codegen.passes.accumulation import Types
from codegen.plans.layers import LayerPlan
from codegen.printing.sample_files import SampleFile, called_with, listed
from codegen.printing.sample_loops import SampleKernel
from codegen.schedule.samples import Walk
from codegen.targets.cuda.sample_loops import BlockPrinter


def layer_kernel_context(plan: LayerPlan) -> dict[str, Any]:
    """Return the context of ``layer_kernels.cu.jinja`` and ``layer_map.py.jinja``.

    Raises ``UsageError`` for a map whose arithmetic the kernels do not support.
    """
    return {
        **_KernelFile(plan).context(),
        "target": "cuda",
        "place": "on CUDA devices",
        "language": "CUDA C++",
        "launch": "samples",
        "helpers": ["Source", "walk"],
        "source_of": 'KERNELS = Source(Path(__file__).with_suffix(".cu"))',
        "ready": "KERNELS.ready",
        "unchecked": "",
        "found": "kernels",
    }


class _KernelFile(SampleFile):
    """The kernels of one plan in CUDA C++."""

    suffix = ".cu"

    def made(self, program: Program, walk: Walk, types: Types, name: str) -> SampleKernel:
        """Return the kernel of a loop over samples."""
        printer = BlockPrinter(program, walk, types, self.integers)
        made = printer.kernel(name)
        self.spans[str({**made.context, "name": ""})] = [self.names.text(span) for span in printer.spans]
        return made

    def called(self, program: Program, walk: Walk, kernel: SampleKernel, own: str, wide: Iterable[str]) -> list[str]:
        """Return the lines that allocate a kernel's outputs, call it, and store the sums over samples."""
        spans = self.spans[str({**kernel.context, "name": ""})]
        span = spans[0] if len(spans) == 1 else f"max({', '.join(spans)})" if spans else "1"
        arguments = [
            "kernels",
            f'"{kernel.name}"',
            span,
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
