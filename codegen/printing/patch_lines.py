"""The Python around the kernels of a map of a convolution, the same for every target.

In these lines ``walk`` runs a kernel over positions; ``number`` and ``room`` allocate one number, or all channels, per
position (see ``runtime.patch_places``); the other functions come from ``runtime.patches``.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from codegen.ir.program import Program, Value, name_of
from codegen.plans.patches import PatchPlan
from codegen.printing.torch_patch_lines import PatchPrinter
from codegen.schedule.patch_steps import ByTorch, Positions, steps, with_scale

Call = Callable[[Positions, str], list[str]]  # (kernel, its name) -> the lines that launch it
_WIDTH = 95
_SETTINGS = {
    "floor": "smallest_sum({0})",
    "patch_entries": "{0}.shape[2] * math.prod(geometry.kernel)",
    "near": "far_scale({1}, {0})",
}


@dataclass
class PatchLines:
    """The lines of a map's forward and backward passes, and the kernels that they launch, by name.

    ``rounded`` are the scale and the numbers per position that no kernel reads: they are at least float32, others are
    float64.
    """

    plan: PatchPlan
    launch: Call
    kernels: dict[str, Positions] = field(default_factory=dict)
    rounded: set[str] = field(default_factory=set)

    @property
    def sums(self) -> list[str]:
        """The names of numbers a position, the scale apart, that sums over samples read: the means of patches."""
        found = {v.name for step in self.kernels.values() for v in step.outputs if v.name not in step.wide}
        return sorted(found & self.rounded - {self.plan.scale_name})

    def forward(self, kept: bool) -> list[str]:
        """Return the lines that compute the output, the scale and, with ``kept``, the product."""
        plan = self.plan
        squares = {i.target.name for i in plan.scale.instructions}
        return self._lines(with_scale(plan.scale, plan.forward, *([plan.product] if kept else [])), {}, squares)

    def backward(self, kept: bool) -> list[str]:
        """Return the lines that compute the gradients, the first of which is always wanted; for ``kept`` see above."""
        program = self.plan.backward_kept if kept else self.plan.backward
        wanted = {name: f"wanted[{k}]" if k else "" for k, name in enumerate(program.outputs)}
        return self._lines(program, wanted)

    def _lines(self, program: Program, wanted: dict[str, str], squares: Iterable[str] = ()) -> list[str]:
        guards = _guards(program, wanted)
        lines: list[str] = []
        found = steps(program, squares)
        kernels = [step for step in found if isinstance(step, Positions)]
        read = {name for step in kernels for name in (*step.reads, *(tap.operand for tap in step.taps))}
        self.rounded |= {self.plan.scale_name} | {v.name for step in kernels for v in step.outputs} - read
        for step in found:
            lines += self._by_torch(step, program, guards) if isinstance(step, ByTorch) else self._kernel(step)
        text, settings = "\n".join(lines), (self.plan.input_names[0], self.plan.kappa)
        used = [name for name in _SETTINGS if re.search(rf"\b{name}\b", text)]
        return [*(f"{name} = {_SETTINGS[name].format(*settings)}" for name in used), *lines]

    def _by_torch(self, step: ByTorch, program: Program, guards: dict[str, str]) -> list[str]:
        """Return lines of torch; lines that only an optional result needs are in a branch of their own."""
        names = {name_of(e) for i in step.instructions for e in i.reads}
        given = [v for v in program.values.values() if v.name in names or v in program.inputs]
        targets = tuple(i.target.name for i in step.instructions)
        inputs = tuple(v for v in given if v.name not in targets)
        later = {name_of(e) for i in program.instructions if i not in step.instructions for e in i.reads}
        results = tuple(t for t in targets if t in {*program.outputs, *later})
        alone = Program(program.name, inputs, program.scalars, step.instructions, results)
        printed = PatchPrinter(alone, self.plan.input_names[0], in_place=True, whole=program).lines()
        lines = []
        for guard, group in itertools.groupby(printed, lambda line: guards.get(line.target, "")):
            inner = [text for line in group for text in line.printed()]
            lines += [f"if {guard}:", *(f"    {text}" for text in inner)] if guard else inner
        return lines

    def _kernel(self, step: Positions) -> list[str]:
        name = "_".join([*(v.name for v in step.outputs), "kernel"])
        if self.kernels.setdefault(name, step).kernel != step.kernel:
            name = f"kept_{name}"  # the same numbers, from the kept product
            self.kernels[name] = step
        made = [f"{value.name} = {self._memory(value, step)}" for value in step.outputs]
        return [*made, *self.launch(step, name)]

    def _memory(self, value: Value, step: Positions) -> str:
        flat = next(v for v in step.kernel.writes if v.name == value.name)
        if len(flat.indices) == 2:
            return f"room({step.like})"
        kept = f"rounded_type({self.plan.input_names[0]})" if value.name in self.rounded else "torch.float64"
        return f"number({step.like}, {kept})"


def _guards(program: Program, wanted: dict[str, str]) -> dict[str, str]:
    """Return for each value that only one result needs the condition under which that result is wanted."""
    needed = {output: {i.target.name for i in program.needed_for([output])} for output in wanted}
    users = {i.target.name: [o for o in wanted if i.target.name in needed[o]] for i in program.instructions}
    return {name: wanted[found[0]] for name, found in users.items() if len(found) == 1}


def launched(step: Positions, arguments: str) -> list[str]:
    """Return the lines that launch a kernel, after a comment with its equations."""
    notes = [f"# {equation}" for equation in step.equations]
    if len(arguments) <= _WIDTH:
        return [*notes, f"walk({arguments})"]
    return [*notes, "walk(", *(f"    {line}" for line in textwrap.wrap(arguments, _WIDTH)), ")"]


def helpers(lines: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return which of the known functions the lines call, sorted."""
    text = "\n".join(lines)
    return sorted(name for name in known if re.search(rf"(?<![\w.]){name}\(", text))
