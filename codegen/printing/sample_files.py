"""The files of one map of a layer of any form: kernels that loop over samples, and the Python that runs them.

``SampleFile`` has the parts that targets share: library steps as lines of torch, operands and their shapes, lengths. A
target's subclass says how a loop over samples (a ``Walk``) is printed and called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sympy import Symbol

from codegen.ir.program import Program, Value
from codegen.passes.accumulation import Types
from codegen.plans.layers import LayerPlan
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.layer_function import formulas, layer_function_context, layer_sizes, like, settings_in_code
from codegen.printing.naming import snake
from codegen.printing.sample_loops import SampleKernel
from codegen.printing.torch_layer_lines import LayerPrinter
from codegen.schedule.samples import Library, Walk, schedule
from derive.errors import UsageError
from derive.forward_map import BATCH

_WORDS = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class _Part:
    """The lines of one pass, and the kernels that they call."""

    lines: list[str]
    kernels: list[SampleKernel]


class SampleFile:
    """The kernels of one plan and the lines around them: the context of ``layer_map.py.jinja`` and a kernels' file."""

    suffix = ""  # of the kernels' file

    def made(self, program: Program, walk: Walk, types: Types, name: str) -> SampleKernel:
        """Return the kernel of a loop; raise ``UsageError`` for arithmetic that the target cannot print."""
        raise NotImplementedError

    def called(self, program: Program, walk: Walk, kernel: SampleKernel, own: str, wide: Iterable[str]) -> list[str]:
        """Return the lines that allocate a kernel's outputs and call it; ``own`` is a tensor of the input's type."""
        raise NotImplementedError

    def __init__(self, plan: LayerPlan) -> None:
        self.plan = plan
        self._prefix = snake(plan.name)
        self._sizes = layer_sizes(plan)
        self.names = ExpressionPrinter(str, {**self._sizes, BATCH.size: "samples"})
        self._made: dict[str, SampleKernel] = {}
        self.spans: dict[str, list[str]] = {}
        self.integers = frozenset(plan.names[t.name] for t in plan.layer.inputs if t.values is not None)

    def context(self) -> dict[str, Any]:
        """Return the template's context: names, lines and kernels."""
        plan, words = self.plan, layer_function_context(self.plan)
        forward = self._part(plan.forward, f"{self._prefix}_forward")
        every, blocks = self._backward()
        parts = [forward, every, *(block for _, block in blocks)]
        values = {v.name: v for p in plan.programs for v in p.inputs} | plan.forward.values
        kept = [plan.backward.inputs[0].name, *self._kept(words), *plan.saved]
        kernels = list(self._made.values())
        return {
            **words,
            "formulas": formulas(plan.layer),
            "module": words["module"],
            "plain": words["module"],
            "source": f"{words['module']}{self.suffix}",
            "kernels": [k.context for k in kernels],
            **self._opening("forward", plan.tensors, values, parts[:1], shown=plan.tensors),
            **self._opening("backward", kept, values, parts[1:], shown=kept),
            "forward_results": ", ".join(plan.forward.outputs) + ("," if len(plan.forward.outputs) == 1 else ""),
            "forward_lines": forward.lines,
            "uses_kappa": plan.kappa is not None and _mentions(str(plan.kappa), parts[1:]),
            "checks": _mentions("check_result", parts),
            "every": every.lines,
            "all_wanted": " and ".join(f"wanted[{plan.tensors.index(n)}]" for n in plan.real_names),
            "blocks": [{"position": position, "lines": block.lines} for position, block in blocks],
            "gradients_none": " = ".join(plan.backward.outputs),
            "backward_returned": self._returned(),
            "uses_functional": any("F." in line for part in parts for line in part.lines),
            "uses_math": any("math." in line for part in parts for line in part.lines),
            "positions": words["positions"] if any(_calls(line) for p in parts for line in p.lines) else "",
        }

    def _kept(self, words: dict[str, Any]) -> list[str]:
        return [name.strip() for name in words["saved"].split(",") if name.strip()]

    def _returned(self) -> str:
        gradients = {o.removeprefix("d"): o for o in self.plan.backward.outputs}
        found = [gradients.get(name, "None") for name in self.plan.tensors]
        return ", ".join([*found, *("None" for _ in settings_in_code(self.plan))])

    def _backward(self) -> tuple[_Part, list[tuple[int, _Part]]]:
        """Return the pass that computes every gradient, and one pass for each gradient alone."""
        plan, program = self.plan, self.plan.backward
        every = self._part(program, f"{self._prefix}_backward")
        blocks = []
        for name, output in zip(plan.real_names, program.outputs, strict=True):
            alone = program.restricted(program.name, (output,))
            blocks.append((plan.tensors.index(name), self._part(alone, f"{self._prefix}_{output}")))
        return every, blocks

    def _part(self, program: Program, prefix: str) -> _Part:
        """Return the lines of a program."""
        types = self.plan.types[program.name]
        own = like(self.plan, program)
        printer = LayerPrinter(program, own, self._sizes, types)
        lines: list[str] = []
        kernels: list[SampleKernel] = []
        for step in schedule(program, types):
            match step:
                case Library(instruction):
                    printed = printer.lines([instruction.target.name])
                    lines += [text for line in printed for text in line.printed()]
                    lines.append(self._checked(instruction.target, own, types.wide))
                case Walk():
                    made = self.made(program, step, types, f"{prefix}_{len(kernels) + 1}")
                    kernel = self._made.setdefault(str({**made.context, "name": ""}), made)
                    lines += self.called(program, step, kernel, own, types.wide)
                    kernels.append(kernel)
        return _Part(lines, kernels)

    def _checked(self, value: Value, own: str, wide: Iterable[str]) -> str:
        dtype = ", torch.float64" if value.name in wide else ""
        return f"{value.name} = check_result({value.name}.contiguous(), {own}, {self.shape(value)}{dtype})"

    def room(self, program: Program, walk: Walk, names: Iterable[str], own: str, wide: Iterable[str]) -> list[str]:
        """Return the lines that allocate the values that a loop writes, and a comment with its equations."""
        lines = []
        for name in names:
            dtype = ", dtype=torch.float64" if name in wide else ""
            lines.append(f"{name} = {own}.new_empty({self.shape(program.values[name])}{dtype})")
        equations = [i.equation for i in walk.instructions if i.equation]
        return lines + ([f"# {', '.join(equations)}"] if equations else [])

    def shape(self, value: Value) -> str:
        """Return the shape of a value as the text of a tuple."""
        along = [self.names.text(i.size) for i in value.indices]
        return f"({', '.join(along)}{',' * (len(along) == 1)})"

    def _opening(
        self, word: str, names: Sequence[str], values: dict[str, Value], parts: Sequence[_Part], shown: Sequence[str]
    ) -> dict[str, Any]:
        """Return the first lines of a pass: lengths, and the operands with their shapes and types."""
        wide = self.plan.types[self.plan.forward.name].wide
        real = [n for n in names if n not in self.integers and n not in wide]
        typed = [(n, "torch.int64" if n in self.integers else "torch.float64") for n in names if n not in real]
        shapes = listed([self.shape(values[n]) for n in real])
        others = [f"({n}, {self.shape(values[n])}, {dtype})" for n, dtype in typed]
        checked = f", {listed(others)}" if others else ""
        used = set(_WORDS.findall(" ".join([*(line for part in parts for line in part.lines), shapes, checked])))
        walked = {name for part in parts for kernel in part.kernels for name in kernel.tensors}
        return {
            f"{word}_lengths": self._lengths(word, used, [values[n] for n in shown]),
            f"{word}_real": listed(real),
            f"{word}_shapes": shapes,
            f"{word}_others": checked,
            f"{word}_walked": [n for n in names if n in walked],
        }

    def _lengths(self, word: str, used: set[str], values: Sequence[Value]) -> list[str]:
        """Return the lines that assign the axis lengths and offsets that a pass uses."""
        places: dict[Symbol, str] = {}
        for value in values:
            for axis, index in enumerate(value.indices):
                if isinstance(index.size, Symbol):
                    places.setdefault(index.size, f"{value.name}.shape[{axis}]")
        settings = settings_in_code(self.plan)
        lines = []
        for size, name in {BATCH.size: "samples", **self._sizes}.items():
            if name not in used or (word == "forward" and name in settings):
                continue
            if size not in places and name not in settings:
                raise UsageError(
                    f"no tensor that this pass reads determines the size {size}; give one an axis of that size"
                )
            lines.append(f"{name} = {places.get(size, f'ctx.{name}')}")
        return lines


def _mentions(name: str, parts: Iterable[_Part]) -> bool:
    return any(name in _WORDS.findall(line) for part in parts for line in part.lines)


def listed(texts: Sequence[str]) -> str:
    """Return the text of a tuple."""
    return f"({', '.join(texts)}{',' * (len(texts) == 1)})"


def _calls(line: str) -> bool:
    return bool(re.search(r"\b(put|quotient|take|within)\(", line))


def called_with(name: str, arguments: Sequence[str]) -> list[str]:
    """Return a call on one line, or with one argument per line."""
    whole = f"{name}({', '.join(arguments)})"
    if len(whole) <= 100:
        return [whole]
    lines, row = [], "   "
    for argument in arguments:
        if len(row) + len(argument) > 98:
            lines.append(row)
            row = "   "
        row += f" {argument},"
    return [f"{name}(", *lines, row, ")"]
