"""The files of one map of a layer of any form in C++: every thread loops over its own samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from codegen.ir.program import Program
from codegen.passes.accumulation import Types
from codegen.plans.layers import LayerPlan
from codegen.printing.sample_files import SampleFile, called_with
from codegen.printing.sample_loops import LoopPrinter, SampleKernel
from codegen.schedule.samples import Walk


def layer_kernel_context(plan: LayerPlan) -> dict[str, Any]:
    """Return the context of ``layer_kernels.cpp.jinja`` and ``layer_map.py.jinja``.

    Raises ``UsageError`` for a map whose arithmetic the kernels do not support.
    """
    context = _KernelFile(plan).context()
    return {
        **context,
        "functions": [f"FUNCTION({kernel['name']})" for kernel in context["kernels"]],
        "target": "cpp",
        "place": "on the CPU",
        "language": "C++",
        "launch": "launch",
        "helpers": ["Source"],
        "source_of": 'KERNELS = Source(Path(__file__).with_suffix(".cpp"))',
        "ready": "KERNELS.ready",
        "unchecked": "",
        "found": "kernels, threads",
    }


class _KernelFile(SampleFile):
    """The kernels of one plan in C++."""

    suffix = ".cpp"

    def made(self, program: Program, walk: Walk, types: Types, name: str) -> SampleKernel:
        """Return the kernel of a loop over samples."""
        return LoopPrinter(program, walk, types, self.integers).kernel(name)

    def called(self, program: Program, walk: Walk, kernel: SampleKernel, own: str, wide: Iterable[str]) -> list[str]:
        """Return the lines that allocate a kernel's outputs and call it."""
        lengths = [self.names.text(size) for size in kernel.lengths]
        addresses = [f"{name}.data_ptr()" for name in kernel.tensors]
        call = called_with(f"kernels.{kernel.name}", [*lengths, *addresses, *kernel.scalars, "threads"])
        return [*self.room(program, walk, walk.results, own, wide), *call]
