"""Names and sentences of the generated files that follow from a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sympy import Expr

from codegen.plan import Plan
from codegen.targets.torch.expressions import ExpressionPrinter
from derive.errors import UsageError
from derive.export.text import text


@dataclass(frozen=True)
class Family:
    """The maps of one name: with a bias, and without one where the layer without a bias has such a map."""

    name: str
    with_bias: Plan
    without_bias: Plan | None

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans there are, with a bias first."""
        return (self.with_bias,) if self.without_bias is None else (self.with_bias, self.without_bias)


def snake(name: str) -> str:
    """Return ``affine_like`` for ``affine-like``."""
    return re.sub(r"\W+", "_", name)


def pascal(name: str) -> str:
    """Return ``AffineLike`` for ``affine-like``."""
    return "".join(word.capitalize() for word in re.split(r"\W+|_", name))


def quoted(names: Sequence[str]) -> str:
    """Return the entries of a list of strings."""
    return ", ".join(f'"{name}"' for name in names)


def listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def equations(plan: Plan) -> list[str]:
    """Return the intermediates of a map, the last first, in the formula language."""
    return [f"{text(d.entry)} = {text(d.expression)}" for d in reversed(plan.layer.definitions)]


def forward_equation(plan: Plan) -> str:
    """Return the map in the formula language."""
    return f"{text(plan.layer.output.entry)} = {text(plan.layer.output.expression)}"


def branch(plan: Plan, with_bias: bool) -> dict[str, Any]:
    """Return what other files say of one plan."""
    suffix = "" if with_bias else "-without-bias"
    return {
        "module": f"_{snake(plan.name + suffix)}",
        "function_class": pascal(plan.name + suffix),
        "formula": forward_equation(plan),
        "definitions": equations(plan),
        "deviation": ExpressionPrinter(str, {plan.kappa: "self.kappa"}).text(plan.weight_deviation),
    }


def family_context(family: Family) -> dict[str, Any]:
    """Return what the public function and module of one family say."""
    branches = [branch(plan, plan is family.with_bias) for plan in family.plans]
    optional = family.without_bias is not None
    defaults = [_number(plan.kappa_default) for plan in family.plans]
    above = [_number(plan.kappa_above) for plan in family.plans]
    same = len(set(defaults)) == 1
    normalising = family.with_bias.kind == "normalising"
    return {
        "function": snake(family.name),
        "module_class": pascal(family.name),
        "title": f"The {family.name} ({family.with_bias.kind}) solution of the affine divergence",
        "branches": branches,
        "with_bias": branches[0],
        "without_bias": branches[-1],
        "bias_optional": optional,
        "bias_name": "bias" if optional else "offset",
        "bias_words": ["        with a bias", "        without"] if optional else [""],
        "no_bias": _no_bias(family),
        "kappa_default": defaults[0] if same else None,
        "kappa_words": f", above {above[0]}" if same else f"; None means {defaults[0]} with a bias, {defaults[-1]} without",
        "kappa_choice": f"{defaults[-1]} if bias is None else {defaults[0]}",
        "kappa_choice_module": f"{defaults[0]} if bias else {defaults[-1]}",
        "above_choice": above[0] if len(set(above)) == 1 else f"{above[-1]} if bias is None else {above[0]}",
        "above_choice_module": above[0] if len(set(above)) == 1 else f"{above[0]} if bias else {above[-1]}",
        "centres": normalising,
        "zero_words": " A row of zeros has no direction: its weight part and its gradient are zero." if normalising else "",
    }


def _no_bias(family: Family) -> str:
    """Return why the map needs its bias, and what to use instead."""
    return f"the {family.name} solution exists only with a bias; give one, or use the norm-like solution, which needs none"


def _number(value: Expr) -> str:
    if not value.is_number:
        raise UsageError(f"the torch target needs a number for a default, not {value}")
    return repr(float(value))
