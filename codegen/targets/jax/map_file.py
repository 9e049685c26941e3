"""The file of one map for JAX: its programs, a function with derived gradients and one with derived tangents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from codegen.ir.program import Program, tangent_name
from codegen.plans.layers import LayerPlan
from codegen.plans.patch_maps import PatchMap
from codegen.printing.layer_function import formulas, layer_sizes
from codegen.printing.naming import snake
from codegen.targets.jax.patch_printer import PatchPrinter
from codegen.targets.jax.printer import JaxPrinter

_POSITIONS = ("put", "quotient", "take", "within")
_COMMENTS = re.compile(r'"[^"]*"|#.*')


def settings(plan: LayerPlan) -> tuple[str, ...]:
    """Return the sizes that a plan's functions take after the tensors and kappa, by the layer's own names."""
    return _MapFile(plan).used_sizes


def map_context(plan: LayerPlan) -> dict[str, Any]:
    """Return the context of ``map.py.jinja``; raise ``UsageError`` for a map with a part that cannot be printed."""
    return _MapFile(plan).context()


def patch_map_context(chosen: PatchMap, plan: LayerPlan) -> dict[str, Any]:
    """Return the same for a map of a convolution."""
    return _PatchMapFile(chosen, plan).context()


def bare_code(lines: Iterable[str]) -> str:
    """Return lines without string literals and comments."""
    return _COMMENTS.sub("", "\n".join(lines))


def imports(lines: Iterable[str]) -> dict[str, Any]:
    """Return the imports that these lines need."""
    code = bare_code(lines)
    positions = [name for name in _POSITIONS if re.search(rf"\b{name}\(", code)]
    return {
        "positions": positions,
        "uses_math": "math." in code,
        "uses_jnp": "jnp." in code,
        "uses_jax": "jax." in code,
        "uses_patches": "patches." in code,
    }


class _MapFile:
    """The printed lines of one plan and the text around them."""

    def __init__(self, plan: LayerPlan) -> None:
        self.plan = plan
        self._kept: set[str] = set()
        forward = self._lines(plan.forward, plan.forward.outputs[0])
        self._forward, self._backward, self._tangent = forward, self._lines(plan.backward), self._lines(plan.tangent)
        self._settings = [*([] if plan.kappa is None else [f"{plan.kappa}: float"]), *self._numbers()]

    def _lines(self, program: Program, result: str = "") -> list[str]:
        """Print a program; kept values have the form that the forward pass gives them."""
        plan = self.plan
        tangents = {tangent_name(name) for name in plan.real_names}
        own = {*plan.real_names, plan.backward.inputs[0].name, *tangents}
        printer = self._printer(program, own, tangents, result)
        self._kept |= printer.wide if result else set()
        return printer.lines()

    def _printer(self, program: Program, own: set[str], tangents: set[str], result: str) -> JaxPrinter:
        plan = self.plan
        return JaxPrinter(program, layer_sizes(plan), plan.types[program.name], own, tangents, self._kept, result)

    @property
    def used_sizes(self) -> tuple[str, ...]:
        """The sizes that lines use, by the layer's own names."""
        words = set(re.findall(r"[A-Za-z_]\w*", bare_code([*self._forward, *self._backward, *self._tangent])))
        return tuple(str(s) for s, name in layer_sizes(self.plan).items() if name in words)

    def _numbers(self) -> list[str]:
        """Return the settings after kappa."""
        sizes = {str(s): name for s, name in layer_sizes(self.plan).items()}
        return [f"{sizes[s]}: int" for s in self.used_sizes]

    def context(self) -> dict[str, Any]:
        """Return the template's context: names, lines and sentences."""
        plan = self.plan
        tensors, cotangent, output = plan.tensors, plan.backward.inputs[0].name, plan.forward.outputs[0]
        real = set(plan.real_names)
        kept = [v.name for v in plan.backward.inputs[1:]]
        saved = list(plan.forward.outputs[1:])
        results = {o.removeprefix("d"): o for o in plan.backward.outputs}
        again = [n for n in saved if n in {v.name for v in plan.tangent.inputs}]
        read = [v.name for v in plan.tangent.inputs if v.name not in again]
        return {
            "title": plan.layer.name,
            "formulas": formulas(plan.layer),
            "digest": plan.digest,
            "module": snake(plan.name),
            **imports([*self._forward, *self._backward, *self._tangent]),
            "arguments": [*(f"{n}: Array" for n in tensors), *self._settings],
            "call": ", ".join([*tensors, *(setting.partition(":")[0] for setting in self._settings)]),
            "settings": self._settings,
            "static": _tuple([str(k) for k in range(len(tensors), len(tensors) + len(self._settings))]),
            "like": plan.real_names[0],
            "computing": computing([n for n in tensors if n in real]),
            "forward_lines": self._forward,
            "results": _tuple([f"{output}.astype(dtype)", *saved]),
            "saved": saved,
            "outputs": _left(["output", *(n if n in kept else "_" for n in saved)]),
            "outputs_again": _left(["output", *(n if n in again else "_" for n in saved)]),
            "kept": _tuple(kept),
            "unpacked": _left(kept),
            "cotangent": cotangent,
            "backward_computing": computing([cotangent, *(n for n in kept if n in real)]),
            "backward_lines": self._backward,
            "gradients": _tuple([f"{results[n]}.astype(dtype)" if n in real else "None" for n in tensors]),
            "tensors": _left(list(tensors)),
            "tangents": _left([tangent_name(n) if n in real else "_" for n in tensors]),
            "tangent_computing": computing([n for n in read if n in real or n not in tensors]),
            "tangent_lines": self._tangent,
            "tangent": plan.tangent.outputs[0],
        }


class _PatchMapFile(_MapFile):
    """The same for a map of a convolution, whose settings are a geometry."""

    def __init__(self, chosen: PatchMap, plan: LayerPlan) -> None:
        self._chosen = chosen
        super().__init__(plan)

    def _printer(self, program: Program, own: set[str], tangents: set[str], result: str) -> JaxPrinter:
        source, types = self.plan.real_names[0], self.plan.types[program.name]
        return PatchPrinter(program, types, own, source, tangents, self._kept, result)

    def _numbers(self) -> list[str]:
        return ["geometry: patches.Geometry"]

    def context(self) -> dict[str, Any]:
        """Return the template's context: names, lines and sentences."""
        return super().context() | {"uses_patches": True, "module": self._chosen.module}


def computing(names: Sequence[str]) -> str:
    """Return the line that casts tensors to the type of computation."""
    return f"{_left(names)} = wide.computing({', '.join(names)})"


def _tuple(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) != 1 else f"{names[0]},"


def _left(names: Sequence[str]) -> str:
    """Return the left side of an assignment to names; a single name gets brackets for unpacking."""
    return ", ".join(names) if len(names) != 1 else f"({names[0]},)"
