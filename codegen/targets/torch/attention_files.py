"""The files of multi-head attention: its projections use a family of the package, its value path has its own map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Indexed, IndexedBase

from codegen.plans.value_path import ValuePath
from codegen.printing.axes import AxesPrinter
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.naming import BACKEND_WORDS, INIT_WORDS, Family, family_context
from codegen.printing.places import folder_of
from codegen.targets.torch.unit_file import unit_file_context
from derive.errors import UsageError
from derive.export.text import text
from derive.forward_map import Definition, Layer
from derive.layers import layer


def attention_context(family: Family, path: ValuePath, module_class: str) -> dict[str, dict[str, Any]]:
    """Return the template context of each file of attention, by the file; ``family`` computes the projections."""
    torch = folder_of("torch")
    return {
        f"{torch}/value_path.py": _value_path(path),
        f"{torch}/unit.py": unit_file_context(),
        "attention.py": {**_module(family, path), "module_class": module_class},
    }


def _module(family: Family, path: ValuePath) -> dict[str, Any]:
    known = family_context(family, [])
    mapped = path.solution.mapped
    energy, scale = mapped.definitions[-2:]
    return {
        "name": family.name,
        "projection": known["module_class"],
        "function": known["function"],
        "kappa_default": known["kappa_default"],
        "no_bias": f"the {family.kind} {family.name} map of the projections exists only with a bias; keep the bias",
        "deviation": known["with_bias"]["deviation"],
        "value_formula": _equation(mapped.output),
        "value_scale": _equation(scale),
        "value_energy": _equation(energy),
        "score_scale": _score_scale(layer("attention")),
        "init_words": INIT_WORDS,
        "backend_words": BACKEND_WORDS,
    }


def _value_path(path: ValuePath) -> dict[str, Any]:
    plan, mapped = path.plan, path.solution.mapped
    names, kappa = list(plan.input_names), str(plan.kappa)
    arguments = [v.name for v in plan.scale.inputs] + [str(s) for s in plan.scale.scalars]
    own = names[0]
    return {
        "formula": _equation(mapped.output),
        "definitions": [_equation(d) for d in reversed(mapped.definitions)],
        "by_head": text(plan.layer.output.expression),
        "digest": path.digest,
        "scale_name": plan.scale_name,
        "scale_formula": next(_equation(d) for d in mapped.definitions if d.name == plan.scale_name),
        "scale_arguments": _typed(arguments, kappa),
        "scale_call": ", ".join(arguments),
        "scale_lines": _lines(AxesPrinter(plan.scale, own)),
        "forward_arguments": _typed([*names, kappa], kappa),
        "forward_lines": _lines(AxesPrinter(plan.forward_scaled, own, {plan.scale_name})),
        "output": plan.forward.outputs[0],
    }


def _typed(names: Sequence[str], scalar: str) -> list[str]:
    return [f"{name}: {'float' if name == scalar else 'Tensor'}" for name in names]


def _lines(printer: AxesPrinter) -> list[str]:
    return [printed for line in printer.lines() for printed in line.printed()]


def _equation(definition: Definition) -> str:
    return f"{text(definition.entry)} = {text(definition.expression)}"


def _score_scale(scores: Layer) -> str:
    """Return the factor by which the scores' forward map multiplies the products of queries and keys."""
    factor, _ = scores.output.expression.as_independent(Indexed, IndexedBase, as_Add=False)
    sizes = {symbol: "self.head_dim" for symbol in factor.free_symbols}
    if len(sizes) > 1 or factor == sympy.S.Zero:
        raise UsageError(f"layer {scores.name!r}: the scale of its scores does not depend on the width of a head alone")
    return ExpressionPrinter(str, sizes).text(factor)
