"""The limits and the assumptions of a cancelling map: as text for terminals and JSON, as prose for documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sympy import Expr

from derive.algebra.nodes import tensor
from derive.export.blocks import Math, Prose
from derive.export.prose import inline
from derive.export.symbols import Notation
from derive.export.text import text
from derive.record import CancellingMap, Limit

_MOST_PARTS = 4


def limit_text(limit: Limit, energy: str) -> str:
    """Return a limit: ``[W]`` is the part of the output that depends on W."""
    if limit.kind in ("value", "length"):
        where = "" if limit.where == 1 else f" where {text(limit.where)} > 0"
        return "z -> " + " + ".join(_terms(limit, energy)) + where
    if limit.kind == "direction":
        return f"singular: the weight part keeps the length {text(limit.factor)} in every direction"
    word = {"turning": "no limit", "constant": "constant"}.get(limit.kind, limit.kind)
    return f"{word}: {limit.reason}" if limit.reason else word


def _terms(limit: Limit, energy: str) -> list[str]:
    """Return ``factor*[W]``, ``offset*[b]`` and the rest."""
    found = [_term(limit.factor, limit.weights) + (f"/sqrt({energy})" if limit.kind == "length" else "")]
    if limit.offsets:
        found.append(_term(limit.offset, limit.offsets))
    return found + ([text(limit.rest)] if limit.rest != 0 else [])


def _term(factor: Expr, names: Sequence[str]) -> str:
    parts = " + ".join(f"[{name}]" for name in names)
    parts = parts if len(names) == 1 else f"({parts})"
    return parts if factor == 1 else f"{text(factor)}*{parts}"


def assumptions(found: CancellingMap, fits: Callable[[Expr], bool] = lambda zero: True) -> tuple[str, ...]:
    """Return the assumptions of a map, formulas between backticks; a formula that does not fit becomes words."""
    stated = [f"`kappa > {text(found.kappa_above)}`"]
    if found.singular:
        zeros = " and ".join(f"`{text(e)} = 0`" for e in found.singular)
        zeros = zeros if all(map(fits, found.singular)) else "the factors of the weights vanish"
        stated.append(f"`{found.energy.name} > 0` (the map is singular where {zeros} throughout)")
    return (*stated, "the layer's input is held fixed during the step")


def limit_prose(limit: Limit, energy: str, notation: Notation) -> Prose:
    """Return a limit for a document, in maths."""
    if limit.kind == "direction":
        length = Math(notation(limit.factor))
        return ("singular: the weight part keeps the length ", length, " in every direction")
    if limit.kind not in ("value", "length"):
        return inline(limit_text(limit, energy), notation)
    terms = [_maths(limit.factor, limit.weights, notation, energy if limit.kind == "length" else "")]
    terms += [_maths(limit.offset, limit.offsets, notation)] if limit.offsets else []
    terms += [notation(limit.rest)] if limit.rest != 0 else []
    found: Prose = (Math(r"z \to " + " + ".join(terms)),)
    return found if limit.where == 1 else (*found, " where ", Math(notation(limit.where) + " > 0"))


def _maths(factor: Expr, names: Sequence[str], notation: Notation, over: str = "") -> str:
    r"""Return ``factor`` times the parts of the output of some parameters, written as ``\langle W \rangle``."""
    each = [rf"\langle {notation(tensor(name))} \rangle" for name in names]
    parts = " + ".join(each if len(each) <= _MOST_PARTS else [each[0], r"\cdots", each[-1]])
    parts = parts if len(names) == 1 else rf"\left( {parts} \right)"
    parts = rf"\frac{{{parts}}}{{\sqrt{{{notation(tensor(over))}}}}}" if over else parts
    return parts if factor == 1 else f"{notation(factor)} {parts}"
