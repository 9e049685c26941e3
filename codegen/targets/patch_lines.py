"""The Python around the kernels of a map of a convolution, the same for every target.

In these lines ``walk`` runs a kernel over positions, ``number`` gives memory for one number a position, and the other
functions are those of ``_patches``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from codegen.patches import PatchPlan
from codegen.program import Program, Value, name_of
from codegen.targets.patch_steps import ByTorch, Positions, steps, with_scale
from codegen.targets.torch.patch_printer import PatchPrinter

Call = Callable[[Positions, str], list[str]]  # a kernel's name, and the lines that launch it


@dataclass
class PatchLines:
    """The lines of a map's forward and backward passes, and the kernels that they launch, by name."""

    plan: PatchPlan
    launch: Call
    kernels: dict[str, Positions] = field(default_factory=dict)

    def forward(self, kept: bool) -> list[str]:
        """Return the lines that compute the output, the scale and, if it is kept, the product."""
        plan = self.plan
        return self._lines(with_scale(plan.scale, plan.forward, *([plan.product] if kept else [])), {})

    def backward(self, kept: bool) -> list[str]:
        """Return the lines that compute the gradients, from the kept product or without it."""
        program = self.plan.backward_kept if kept else self.plan.backward
        wanted = {name: f"wanted[{k}]" for k, name in enumerate(program.outputs)}
        return self._lines(program, wanted)

    def _lines(self, program: Program, wanted: dict[str, str]) -> list[str]:
        lines = []
        for step in steps(program):
            lines += self._by_torch(step, program, wanted) if isinstance(step, ByTorch) else self._kernel(step)
        return lines

    def _by_torch(self, step: ByTorch, program: Program, wanted: dict[str, str]) -> list[str]:
        """Return lines of torch; a result that may not be wanted stands in a branch of its own."""
        names = {name_of(e) for i in step.instructions for e in i.reads}
        given = [v for v in program.values.values() if v.name in names or v in program.inputs]
        targets = tuple(i.target.name for i in step.instructions)
        alone = Program(program.name, tuple(given), program.scalars, step.instructions, targets)
        printed = PatchPrinter(alone, self.plan.input_names[0], in_place=True).lines()
        lines = []
        for line in printed:
            guard = wanted.get(line.target)
            lines += [f"if {guard}:", *(f"    {text}" for text in line.printed())] if guard else line.printed()
        return lines

    def _kernel(self, step: Positions) -> list[str]:
        name = "_".join([*(v.name for v in step.outputs), "kernel"])
        if self.kernels.setdefault(name, step).kernel != step.kernel:
            name = f"recomputed_{name}"
            self.kernels[name] = step
        made = [f"{value.name} = {self._memory(value, step)}" for value in step.outputs]
        return [*made, *self.launch(step, name)]

    def _memory(self, value: Value, step: Positions) -> str:
        flat = next(v for v in step.kernel.writes if v.name == value.name)
        if len(flat.indices) == 2:
            return f"torch.empty_like({step.like})"
        kept = f"rounded_type({self.plan.input_names[0]})" if value.name == self.plan.scale_name else "torch.float64"
        return f"number({step.like}, {kept})"


def helpers(lines: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return which of the known functions the lines call, sorted."""
    text = "\n".join(lines)
    return sorted(name for name in known if re.search(rf"(?<![\w.]){name}\(", text))
