"""Definitions of named functions as sentences; a document defines each function at its first use."""

from __future__ import annotations

import sympy

from derive.algebra.named import DEFINITIONS, Named, named
from derive.algebra.nodes import AtMost
from derive.algebra.reductions import Attains, LogSumExp, Masked, Softmax, Stopped
from derive.export.blocks import Inline, Math, Prose
from derive.export.notation import latex
from derive.forward_map import Layer

_v = sympy.Symbol("v", real=True)
_SOFTMAX = (
    r"\operatorname{softmax}_{k}\left( v_{k} \right) = "
    r"e^{v_{k} - \operatorname{logsumexp}_{l}\left( v_{l} \right)}"
)
_OTHERS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((Softmax,), _SOFTMAX),
    ((Softmax, LogSumExp), r"\operatorname{logsumexp}_{l}\left( v_{l} \right) = \log \sum_{l} e^{v_{l}}"),
    ((Masked,), r"\operatorname{softmax}_{k : c} \text{ is taken over those } k \text{ where } c \text{ is 1}"),
    ((Stopped,), r"\operatorname{held}\left( v \right) = v \text{, held fixed during a step}"),
    ((AtMost, Attains), r"\left[ c \right] \text{ is 1 where } c \text{ holds and 0 elsewhere}"),
)


def named_functions(layer: Layer) -> Prose:
    """Return a sentence that defines every named function of a layer's forward map; empty where it has none."""
    expressions = [d.expression for d in (*layer.definitions, layer.output)]
    stems = {f.stem for e in expressions for f in e.atoms(Named)}
    stems |= {"sigmoid"} if "softplus" in stems else set()
    shown = [f"{latex(named(stem)(_v))} = {latex(DEFINITIONS[stem](_v))}" for stem in DEFINITIONS if stem in stems]
    shown += [formula for kinds, formula in _OTHERS if any(e.has(*kinds) for e in expressions)]
    if not shown:
        return ()
    mixed: list[Inline] = []
    for formula in shown:
        mixed += ["; ", Math(formula)]
    prime = ". A prime on a function is its derivative." if stems else "."
    return ("Functions under their names: ", *mixed[1:], prime)
