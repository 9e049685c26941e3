"""The file of self factors: sums of the input, and the constants of the general law, from their derivations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sympy import Expr, Indexed, KroneckerDelta, Symbol

from codegen.ir.program import name_of
from codegen.plans.self_factors import Law, SelfFactors
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.naming import Family, pascal
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum
from derive.errors import UsageError
from derive.export.text import text


def self_factor_context(families: Sequence[Family], attention: str, found: SelfFactors) -> dict[str, Any]:
    """Return the context of ``self_factors.py``; ``attention`` is the class of the generated attention."""
    written = (found.affine, found.linear, found.embedding, found.embedding_bag)
    return {
        "modules": sorted(pascal(family.name) for family in families),
        "attention": attention,
        "constant_kinds": sorted([*(pascal(f.name) for f in families if f.kind != "normalising"), attention]),
        "normalising": [_normalising(family) for family in families if family.kind == "normalising"],
        "normalising_form": next(family.name for family in families if family.kind == "normalising"),
        "formulas": {w.name: text(w.expression) for w in written},
        "printed": {w.name: printed(w.expression) for w in written},
        "digests": {w.name: w.digest for w in written},
        "laws": {law.name: _law(law) for law in (found.convolution, found.transposed_convolution)},
    }


def _normalising(family: Family) -> dict[str, str]:
    """Return a module's class and its self factor at zero, which is the bound of kappa."""
    above = [plan.kappa_above for plan in family.plans]
    return {"module": pascal(family.name), "with_bias": str(above[0]), "without_bias": str(above[-1])}


def _law(law: Law) -> dict[str, str]:
    return {
        "with_bias": _plus(law.with_bias),
        "without_bias": _plus(law.without_bias),
        "left_with_bias": str(law.with_bias),
        "left_without_bias": str(law.without_bias),
    }


def _plus(constant: Expr) -> str:
    return "" if constant == 0 else f" + {constant}"


def printed(expression: Expr) -> str:
    """Return an expression with one number per sample as PyTorch: sums over the last axes of broadcast products."""
    texts: dict[Symbol, str] = {}
    for place, total in enumerate(sorted(expression.atoms(IndexedSum), key=str)):
        name = Symbol(f"_sum{place}")
        texts[name] = _sum(total)
        expression = expression.xreplace({total: name})
    if expression.atoms(Indexed):
        raise UsageError(f"the self factor {expression} reads its input outside a sum, which has no PyTorch text")
    return ExpressionPrinter(str, texts).text(expression)


def _sum(total: IndexedSum) -> str:
    """``sum[j,k](w[s,j]*w[s,k])``: each entry has its own summed axes, and length 1 along the other ones."""
    bound = list(total.bound)

    def entry(read: Indexed) -> str:
        return name_of(read) + _spread(read, bound)

    body, texts = total.body, {}
    for place, delta in enumerate(sorted(body.atoms(KroneckerDelta), key=str)):
        same = Symbol(f"_same{place}")
        left, right = delta.args
        texts[same] = f"({entry(left)} == {entry(right)})"
        body = body.xreplace({delta: same})
    axes = tuple(range(-len(bound), 0))
    inside = ExpressionPrinter(entry, texts).text(body)
    return f"({inside}).sum({axes[0] if len(axes) == 1 else axes})"


def _spread(read: Indexed, bound: Sequence[Index]) -> str:
    own = [i for i in read.indices if i in bound]
    if own != [i for i in bound if i in own]:
        raise UsageError(f"{read} has its axes in another order than the sum over {bound}, which has no PyTorch text")
    return "".join(f".unsqueeze({k - len(bound)})" for k, i in enumerate(bound) if i not in own)
