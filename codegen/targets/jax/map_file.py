"""The file of one map for JAX: its programs, a function with gradients and its twin with tangents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from codegen.ir.program import Program, tangent_name
from codegen.plans.layers import LayerPlan
from codegen.printing.layer_function import formulas, layer_sizes
from codegen.printing.naming import snake
from codegen.targets.jax.printer import JaxPrinter

_POSITIONS = ("put", "quotient", "take", "within")
_COMMENTS = re.compile(r'"[^"]*"|#.*')


def settings(plan: LayerPlan) -> tuple[str, ...]:
    """Return the sizes that the functions of a plan take behind the tensors and kappa, by the layer's own names."""
    return _MapFile(plan).used_sizes


def map_context(plan: LayerPlan) -> dict[str, Any]:
    """Return what ``map.py.jinja`` needs; raise ``UsageError`` for a map with a part that is not printed."""
    return _MapFile(plan).context()


def bare_code(lines: Iterable[str]) -> str:
    """Return lines without their texts in quotes and their comments."""
    return _COMMENTS.sub("", "\n".join(lines))


def imports(lines: Iterable[str]) -> dict[str, Any]:
    """Return what a file imports for these lines."""
    code = bare_code(lines)
    positions = [name for name in _POSITIONS if re.search(rf"\b{name}\(", code)]
    return {
        "positions": positions,
        "uses_math": "math." in code,
        "uses_jnp": "jnp." in code,
        "uses_jax": "jax." in code,
    }


class _MapFile:
    """The printed lines of one plan and the words around them."""

    def __init__(self, plan: LayerPlan) -> None:
        self.plan, self._sizes = plan, layer_sizes(plan)
        self._forward, self._backward, self._tangent = (
            self._lines(p) for p in (plan.forward, plan.backward, plan.tangent)
        )
        words = set(re.findall(r"[A-Za-z_]\w*", bare_code([*self._forward, *self._backward, *self._tangent])))
        self.used_sizes = tuple(str(s) for s, name in self._sizes.items() if name in words)
        kappa = [] if plan.kappa is None else [str(plan.kappa)]
        self._settings = [*kappa, *(name for name in self._sizes.values() if name in words)]

    def _lines(self, program: Program) -> list[str]:
        plan = self.plan
        tangents = {tangent_name(name) for name in plan.real_names}
        own = {*plan.real_names, plan.backward.inputs[0].name, *tangents}
        return JaxPrinter(program, self._sizes, plan.types[program.name], own, tangents).lines()

    def context(self) -> dict[str, Any]:
        """Return names, lines and sentences."""
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
            "arguments": [
                *(f"{n}: Array" for n in tensors),
                *(f"{n}: {'float' if n == str(plan.kappa) else 'int'}" for n in self._settings),
            ],
            "call": ", ".join([*tensors, *self._settings]),
            "settings": [f"{n}: {'float' if n == str(plan.kappa) else 'int'}" for n in self._settings],
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


def computing(names: Sequence[str]) -> str:
    """Return the line that takes tensors into the type to compute in."""
    return f"{_left(names)} = wide.computing({', '.join(names)})"


def _tuple(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) != 1 else f"{names[0]},"


def _left(names: Sequence[str]) -> str:
    """Return names to assign to, one of them in brackets."""
    return ", ".join(names) if len(names) != 1 else f"({names[0]},)"
