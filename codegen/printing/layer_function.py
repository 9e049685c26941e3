"""The file of one map of any layer: kept values, gradients, tangents and its ``torch.autograd.Function``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sympy import Symbol

from codegen.ir.program import Program, tangent_name
from codegen.lower.safe_names import local_sizes
from codegen.plans.layers import LayerPlan
from codegen.printing.naming import listed, pascal, snake
from codegen.printing.torch_layer_lines import LayerPrinter
from codegen.printing.torch_lines import Line
from derive.export.text import text
from derive.forward_map import Layer

_HELPERS = ("put", "quotient", "take", "within")
_WIDTH = 108  # of a line inside a method, without its indent
_STRINGS_AND_COMMENTS = re.compile(r'"[^"]*"|#.*')


def layer_function_context(plan: LayerPlan) -> dict[str, Any]:
    """Return the context of ``layer_function.py.jinja``."""
    return _FunctionFile(plan).context()


def formulas(layer: Layer) -> list[str]:
    """Return a layer's output, then its intermediates from the last to the first, in the formula language."""
    lines = [(layer.output.entry, layer.output.expression)]
    lines += [(d.entry, d.expression) for d in reversed(layer.definitions)]
    return [f"{text(left)} = {text(right)}" for left, right in lines]


def settings(plan: LayerPlan) -> tuple[str, ...]:
    """Return the sizes that a plan's functions take after kappa, by the layer's own names."""
    return _FunctionFile(plan).used_sizes


def settings_in_code(plan: LayerPlan) -> tuple[str, ...]:
    """Return the settings that a plan's functions take after the tensors, by their names in code."""
    return tuple(_FunctionFile(plan).settings())


def layer_sizes(plan: LayerPlan) -> dict[Symbol, str]:
    """Return the name in code of every size of a layer except the batch."""
    return local_sizes(plan.layer, [v for p in plan.programs for v in p.values])


def like(plan: LayerPlan, program: Program) -> str:
    """Return the name of a real input of a program, which determines type and device."""
    real = {*plan.real_names, plan.backward.inputs[0].name, *(tangent_name(name) for name in plan.real_names)}
    return next((v.name for v in program.inputs if v.name in real), plan.real_names[0])


def bare_code(lines: Iterable[str]) -> str:
    """Return lines without string literals and comments."""
    return _STRINGS_AND_COMMENTS.sub("", "\n".join(lines))


def position_helpers(code: str) -> str:
    """Return the functions of ``runtime.positions`` that code calls, in the form of an import."""
    return ", ".join(h for h in _HELPERS if re.search(rf"\b{h}\(", code))


class _FunctionFile:
    """The printed lines of one plan and the text around them."""

    def __init__(self, plan: LayerPlan) -> None:
        self.plan = plan
        self._sizes = layer_sizes(plan)
        self.forward, self.kept, self.tangent = (self._lines(p) for p in (plan.forward, plan.kept, plan.tangent))
        self.shared, self.blocks = self._backward()
        own = [line for block in self.blocks for line in block["lines"]]
        self.gradients = [*self.shared, *own]
        everything = [*self.forward, *self.kept, *self.tangent, *self.gradients]
        self.used = self._used(everything)
        self.used_sizes = tuple(str(s) for s, name in self._sizes.items() if name in self.used)
        self._everything = "\n".join(everything)

    def context(self) -> dict[str, Any]:
        """Return the template's context: names, lines and sentences."""
        plan = self.plan
        code = bare_code([self._everything])
        return {
            "title": plan.layer.name,
            "formulas": formulas(plan.layer),
            "digest": plan.digest,
            "module": snake(plan.name),
            "function_class": pascal(plan.name),
            "about_kept": self._about_kept(),
            "renamed": self._renamed(),
            "uses_math": "math." in code,
            "uses_functional": "F." in code,
            "positions": position_helpers(code),
            **self._kept_context(),
            **self._forward_context(),
            **self._gradient_context(),
            **self._tangent_context(),
        }

    def _about_kept(self) -> str:
        if not self.plan.saved:
            return "The backward pass needs only the tensors that it reads; nothing else is kept for it."
        kept = listed([f"``{name}``" for name in self.plan.saved])
        return (
            f"Kept for the backward pass, besides the tensors that it reads: {kept}, with fewer axes than the output."
        )

    def _renamed(self) -> str:
        moved = [f"``{old}`` is ``{new}``" for old, new in self.plan.names.items() if old != new]
        return f" In the code {listed(moved)}." if moved else ""

    def _kept_context(self) -> dict[str, Any]:
        saved = self.plan.saved
        kinds = ", ".join("Tensor" for _ in saved)
        arguments = self._arguments(self._kept_inputs(), self.kept)
        return {
            "kept_names": ", ".join(saved),
            "kept_arguments": _typed(arguments, self.plan),
            "kept_type": kinds if len(saved) == 1 else f"tuple[{kinds}]",
            "kept_words": listed([f"``{name}``" for name in saved]) if saved else "",
            "kept_lines": self.kept,
            "call_again": ", ".join(arguments),
        }

    def _forward_context(self) -> dict[str, Any]:
        plan = self.plan
        arguments = [*plan.tensors, *self.settings()]
        outputs = plan.forward.outputs
        return {
            "arguments": _typed(arguments, plan),
            "call": ", ".join(arguments),
            "forward_lines": self.forward,
            "forward_results": ", ".join(outputs) if len(outputs) > 1 else f"{outputs[0]},",
            "results": len(outputs),
            "input_names": plan.tensors,
            "kept_count": len(outputs) - 1,
            "settings_with_types": _typed_first(self.settings(), plan),
        }

    def _gradient_context(self) -> dict[str, Any]:
        plan, backward = self.plan, self.plan.backward
        cotangent = backward.inputs[0].name
        arguments = self._arguments([v.name for v in backward.inputs], self.gradients)
        read = self._saved_inputs()
        used = [s for s in self.settings() if s in self._used([*self.gradients, *self.kept])]
        keeps = [name if name in read else "_" for name in plan.tensors]
        unpacked = [*read, *plan.saved]
        gradients = {o.removeprefix("d"): o for o in backward.outputs}
        return {
            "cotangent": cotangent,
            "gradient_arguments": [*_typed(arguments, plan), "wanted: tuple[bool, ...]"],
            "none_yet": " = ".join(backward.outputs),
            "shared_lines": self.shared,
            "blocks": self.blocks,
            "returned": _tuple([gradients.get(name, "None") for name in plan.tensors]),
            "context_names": _tuple([*keeps, *(f"ctx.{s}" for s in self.settings())]),
            "saved": "".join(f"{name}, " for name in read),
            "unpacked": _tuple(unpacked),
            "setting_names": ", ".join(used),
            "setting_values": ", ".join(f"ctx.{s}" for s in used),
            "backward_result": self._backward_result(arguments),
        }

    def _backward_result(self, arguments: Sequence[str]) -> str:
        nones = "".join(", None" for _ in self.settings())
        call = f"gradients({', '.join([*arguments, 'ctx.needs_input_grad'])})"
        return f"(*{call}{nones})" if nones else call

    def _tangent_context(self) -> dict[str, Any]:
        plan = self.plan
        real = set(plan.real_names)
        arguments = [f"{tangent_name(n)}: {'Tensor' if n in real else 'None'}" for n in plan.tensors]
        unpacked = [*self._saved_inputs(), *("_" for _ in plan.saved)]
        used = [s for s in self.settings() if s in self._used([*self.tangent, *self.kept])]
        return {
            "tangent_arguments": ["ctx: Any", *arguments, "*_: None"],
            "unpacked_for_tangent": _tuple(unpacked),
            "tangent_setting_names": ", ".join(used),
            "tangent_setting_values": ", ".join(f"ctx.{s}" for s in used),
            "tangent_lines": self.tangent,
            "tangent_results": f"{plan.tangent.outputs[0]}," + ", ".join(" None" for _ in plan.saved),
        }

    def _saved_inputs(self) -> list[str]:
        needed = {*self.plan.read_again, *(self._kept_inputs() if self.plan.saved else ())}
        return [name for name in self.plan.tensors if name in needed]

    def _kept_inputs(self) -> list[str]:
        """Return the tensors that ``kept`` reads, and a real one for the type if none of them is real."""
        names = [v.name for v in self.plan.kept.inputs]
        return names if set(names) & set(self.plan.real_names) else [*names, self.plan.real_names[0]]

    def settings(self) -> list[str]:
        """Return kappa and the sizes that any of the functions uses, by their names in code."""
        kappa = [] if self.plan.kappa is None else [str(self.plan.kappa)]
        return [*kappa, *(name for name in self._sizes.values() if name in self.used)]

    def _arguments(self, tensors: Sequence[str], lines: Sequence[str]) -> list[str]:
        used = self._used(lines)
        return [*tensors, *(s for s in self.settings() if s in used)]

    def _used(self, lines: Iterable[str]) -> set[str]:
        words = re.findall(r"[A-Za-z_]\w*", _STRINGS_AND_COMMENTS.sub("", "\n".join(lines)))
        return {*words} & {str(self.plan.kappa), *self._sizes.values()}

    def _lines(self, program: Program) -> list[str]:
        return _printed(
            LayerPrinter(program, like(self.plan, program), self._sizes, self.plan.types[program.name]).lines()
        )

    def _backward(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Return the lines that several gradients share, and for each gradient its own lines."""
        program = self.plan.backward
        needs = {o: {i.target.name for i in program.needed_for([o])} for o in program.outputs}
        common = {n for o, names in needs.items() for n in names if any(n in needs[p] for p in needs if p != o)}
        printer = LayerPrinter(program, like(self.plan, program), self._sizes, self.plan.types[program.name])
        shared = _printed(printer.lines(common))
        positions = [self.plan.tensors.index(name) for name in self.plan.real_names]
        blocks = []
        for position, output in zip(positions, program.outputs, strict=True):
            lines = printer.separate().lines(needs[output] - common)
            blocks.append({"position": position, "lines": _printed(lines)})
        return shared, blocks


def _typed(names: Sequence[str], plan: LayerPlan) -> list[str]:
    tensors = {*plan.tensors, *plan.saved, plan.backward.inputs[0].name}
    kinds: Mapping[str, str] = {str(plan.kappa): "float"}
    return [f"{name}: {'Tensor' if name in tensors else kinds.get(name, 'int')}" for name in names]


def _typed_first(names: Sequence[str], plan: LayerPlan) -> list[str]:
    """Return settings after their types, as in an operator's schema."""
    return [" ".join(reversed(text.split(": "))) for text in _typed(names, plan)]


def _printed(lines: Sequence[Line]) -> list[str]:
    return [text for line in lines for printed in line.printed() for text in _broken(printed)]


def _broken(line: str) -> list[str]:
    """Break a sum that is too long for a line into its terms, in parentheses."""
    if len(line) <= _WIDTH or line.startswith("#"):
        return [line]
    target, value = line.split(" = ", 1)
    places, depth = [0], 0
    for place, character in enumerate(value):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and value[place : place + 3] in (" + ", " - "):
            places.append(place + 1)
    terms = [value[start:end].strip() for start, end in zip(places, [*places[1:], None], strict=True)]
    return [f"{target} = (", *(f"    {term}" for term in terms), ")"] if len(terms) > 1 else [line]


def _tuple(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) != 1 else f"{names[0]},"
