"""Names and sentences of generated files that depend on a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sympy import Expr

from codegen.plans.angles import AnglePlan
from codegen.plans.layers import LayerPlan
from codegen.plans.rows import Plan
from codegen.printing.expressions import ExpressionPrinter
from codegen.targets.base import NAMES
from derive.errors import UsageError
from derive.export.text import text
from derive.forward_map import Layer

_CHOICES = ", ".join(f'"{name}"' for name in NAMES[:-1]) + f' or "{NAMES[-1]}"'
BACKEND_WORDS = f"backend: {_CHOICES}; None chooses one, see ``runtime.backends``."
INIT_WORDS = 'init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch\'s own way.'
_ZERO = " A row of zeros has no direction: its weight part and its gradient are zero."


@dataclass(frozen=True)
class Borrowed:
    """What a file of kernels imports from the torch target's file of the same map.

    ``setup`` are lines that assign the kernels' settings. ``known`` is the expression that ``plain.gradients`` reads
    instead of the saved number per row, if not that number itself.
    """

    setup: tuple[str, ...] = ()
    known: str | None = None


@dataclass(frozen=True)
class Family:
    """The maps of one name: with a bias, and without one if the layer without a bias has such a map."""

    name: str
    with_bias: Plan
    without_bias: Plan | None

    @property
    def kind(self) -> str:
        """Whether the maps are normalising or non-normalising."""
        return self.with_bias.kind

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The existing plans, with a bias first."""
        return (self.with_bias,) if self.without_bias is None else (self.with_bias, self.without_bias)


@dataclass(frozen=True)
class AngleFamily:
    """The map at one angle of the family, which needs the bias."""

    with_bias: AnglePlan
    without_bias: None = None

    @property
    def name(self) -> str:
        """The map's name."""
        return self.with_bias.name

    @property
    def kind(self) -> str:
        """Whether the map is normalising or non-normalising."""
        return self.with_bias.kind

    @property
    def plans(self) -> tuple[AnglePlan, ...]:
        """The one plan."""
        return (self.with_bias,)


def snake(name: str) -> str:
    """Return ``affine_like`` for ``affine-like``."""
    return re.sub(r"\W+", "_", name)


def pascal(name: str) -> str:
    """Return ``AffineLike`` for ``affine-like``."""
    return "".join(word.capitalize() for word in re.split(r"\W+|_", name))


def camel(name: str) -> str:
    """Return ``ScaledAffine`` for ``scaled_affine`` and ``AffineLike`` for ``affine-like``; capitals stay."""
    return "".join(word[:1].upper() + word[1:] for word in name.replace("-", "_").split("_"))


def class_name(layer: Layer, plan: LayerPlan) -> str:
    """Return the name of the module of a map, ``ScaledAffineAffineLike``, or of the layer itself, ``ScaledAffine``."""
    return camel(layer.name) + ("" if plan.kappa is None else camel(plan.name))


def quoted(names: Sequence[str]) -> str:
    """Return the text of the entries of a list of strings."""
    return ", ".join(f'"{name}"' for name in names)


def places(names: Sequence[str], among: Sequence[str]) -> str:
    """Return the positions of names among others as the text of a tuple."""
    found = [str(list(among).index(name)) for name in names]
    return f"({', '.join(found)}{',' * (len(found) == 1)})"


def listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def equations(plan: Plan | AnglePlan) -> list[str]:
    """Return a map's intermediates from the last to the first, in the formula language."""
    return [f"{text(d.entry)} = {text(d.expression)}" for d in reversed(plan.layer.definitions)]


def forward_equation(plan: Plan | AnglePlan) -> str:
    """Return the map in the formula language."""
    return f"{text(plan.layer.output.entry)} = {text(plan.layer.output.expression)}"


def branch(plan: Plan | AnglePlan, with_bias: bool) -> dict[str, Any]:
    """Return the context of one plan in files other than its own."""
    suffix = "" if with_bias else "-without-bias"
    return {
        "module": snake(plan.name + suffix),
        "function_class": pascal(plan.name + suffix),
        "formula": forward_equation(plan),
        "definitions": equations(plan),
        "deviation": ExpressionPrinter(str, {plan.kappa: "self.kappa"}).text(plan.weight_deviation),
    }


def family_context(family: Family | AngleFamily, without_bias: Sequence[str]) -> dict[str, Any]:
    """Return the context of a family's function and module; ``without_bias`` names the maps that need no bias."""
    branches = [branch(plan, plan is family.with_bias) for plan in family.plans]
    optional, normalising = family.without_bias is not None, family.kind == "normalising"
    return {
        "function": snake(family.name),
        "module_class": pascal(family.name),
        "title": f"The {family.name} ({family.kind}) solution of the affine divergence",
        "formulas": _formulas(family),
        "branches": branches,
        "with_bias": branches[0],
        "without_bias": branches[-1],
        "bias_optional": optional,
        "bias_name": "bias" if optional else "offset",
        "no_bias": _no_bias(family, without_bias),
        "centres": normalising,
        "zero_words": _ZERO if normalising else "",
        "forward_call": "input, self.weight, self.bias, self.kappa" + (", self.center" if normalising else ""),
        **_kappa_context(family, normalising),
    }


def _kappa_context(family: Family | AngleFamily, normalising: bool) -> dict[str, Any]:
    """Return the text about kappa in signatures and checks: one default, or one with a bias and one without."""
    defaults = [_number(plan.kappa_default) for plan in family.plans]
    above = [_number(plan.kappa_above) for plan in family.plans]
    default = defaults[0] if len(set(defaults)) == 1 else None
    optional = family.without_bias is not None
    return {
        "function_arguments": _arguments(optional, default, normalising),
        "inner_arguments": [*map(_given, _arguments(optional, "1.0", normalising)), "backend: str | None"],
        "kappa_default": default,
        "kappa_words": _kappa_words(defaults, above),
        "kappa_choice": _choice("bias is None", defaults[-1], defaults[0]),
        "kappa_choice_module": _choice("bias", defaults[0], defaults[-1]),
        "above_choice": _choice("bias is None", above[-1], above[0]),
        "above_choice_module": _choice("bias", above[0], above[-1]),
    }


def _choice(condition: str, first: str, second: str) -> str:
    return first if first == second else f"{first} if {condition} else {second}"


def _formulas(family: Family | AngleFamily) -> list[str]:
    """Return the map and its intermediates, one line per plan."""
    words = [""] if family.without_bias is None else ["with a bias: ", "without: "]
    lines = [", ".join((forward_equation(plan), *equations(plan))) for plan in family.plans]
    return [word + line for word, line in zip(words, lines, strict=True)]


def _arguments(bias_optional: bool, kappa: str | None, centres: bool) -> list[str]:
    bias = "bias: Tensor | None = None" if bias_optional else "bias: Tensor"
    setting = "kappa: float | None = None" if kappa is None else f"kappa: float = {kappa}"
    return ["x: Tensor", "weight: Tensor", bias, setting, *(["center: bool = False"] if centres else [])]


def _given(argument: str) -> str:
    """Return an argument without its default, for functions that are called with all arguments."""
    return argument.partition(" =")[0]


def _kappa_words(defaults: Sequence[str], above: Sequence[str]) -> str:
    if len(set(defaults)) == 1:
        return f", above {above[0]}"
    with_bias = f"above {above[0]} with a bias, where None means {defaults[0]}"
    return f"; {with_bias}; above {above[-1]} without, where it means {defaults[-1]}"


def _no_bias(family: Family | AngleFamily, without_bias: Sequence[str]) -> str:
    """Return the message that the map needs its bias, and what to use instead."""
    others = " or ".join(pascal(name) for name in without_bias) or "a linear layer"
    return f"the {family.kind} {family.name} map exists only with a bias; keep the bias, or use {others}"


def _number(value: Expr) -> str:
    if not value.is_number:
        raise UsageError(f"the torch target needs a number for a default, not {value}")
    return repr(float(value))
