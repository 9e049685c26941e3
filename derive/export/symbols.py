"""The notation of one layer: the preferred letter of each axis, and short symbols for long names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sympy import Expr

from derive.algebra.index import Index
from derive.backward_pass import free_letters
from derive.export.blocks import Math
from derive.export.letters import POOL, Hints, hints_from
from derive.export.notation import latex, name_parts
from derive.forward_map import Definition, Layer

_GREEK_POOL = (r"\alpha", r"\beta", r"\rho", r"\tau", r"\mu", r"\nu", r"\omega")


_ENGINE = frozenset({"K", "g", "E", "f"})  # update kernel, loss gradient, and a map's energy and scale


@dataclass(frozen=True)
class Notation:
    """The notation of one layer's expressions, in which no symbol on its pages has two meanings.

    ``hints`` has a letter for each axis length, ``aliases`` a symbol for each scalar whose name is long or taken,
    ``renamed`` a letter for each index whose name is taken; ``reserved`` are the names that no bound index may take.
    """

    hints: Hints
    aliases: Mapping[str, str] = field(default_factory=dict)
    reserved: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, expression: Expr, *beside: Expr, ranges: dict[str, Expr] | None = None) -> str:
        """Return the LaTeX of an expression; bound indices avoid the free names of the expressions ``beside`` it."""
        named = {"reserved": self.reserved, "renamed": self.renamed, "ranges": ranges}
        return latex(expression, self.hints, beside, self.aliases, **named)  # type: ignore[arg-type]

    def sides(self, *sides: Expr) -> list[str]:
        """Return the sides of one equation, in which each letter runs over one axis."""
        ranges: dict[str, Expr] = {}
        return [self(side, *(other for other in sides if other is not side), ranges=ranges) for side in sides]

    def math(self, expression: Expr) -> Math:
        """Return an expression as inline maths."""
        return Math(self(expression))

    def beside(self, other: Notation) -> Notation:
        """Return this notation, completed by that of a layer printed on the same page."""
        return Notation(
            {**other.hints, **self.hints},
            {**other.aliases, **self.aliases},
            self.reserved | other.reserved,
            {**other.renamed, **self.renamed},
        )


def notation_for(layer: Layer, *page: Layer) -> Notation:
    """Return the notation of a layer: its own letters for its axes, Greek letters for settings with long names.

    An index or a size gets another symbol if its name is that of a tensor, of this layer or of others on its ``page``,
    or of a symbol of the engine.
    """
    definitions = (layer.output, *layer.definitions)
    tensors = _ENGINE.union(*map(_tensor_names, (layer, *page)))
    scalars = [s.name for s in (*layer.sizes, *layer.scalars)]
    meant = tensors.union(*({str(s) for s in (*one.sizes, *one.scalars)} for one in (layer, *page)))
    indices = {i.name.rstrip("'") for d in definitions for e in (*d.indices, d.expression) for i in e.atoms(Index)}
    most = max((len(t.axes) for t in (*layer.inputs, *layer.parameters)), default=0)
    letters = free_letters(layer)
    named = {name for name in indices if not name.startswith("_")} | {*letters[:most]}  # these name entries
    free = (letter for letter in (*POOL, *letters) if letter not in named | meant)
    renamed = {name: next(free) for name in sorted(named & meant)}
    hints = {size: renamed.get(letter, letter) for size, letter in _hints(definitions).items()}
    aliases = {name: f"n_{{{name}}}" for name in scalars if name in tensors} | short_symbols(scalars)
    return Notation(hints, aliases, frozenset(meant), renamed)


def _tensor_names(layer: Layer) -> set[str]:
    declared = {t.name for t in (*layer.inputs, *layer.parameters)}
    return declared | {d.name for d in (*layer.definitions, layer.output)}


def _hints(definitions: Sequence[Definition]) -> dict[Expr, str]:
    return hints_from(*(i for d in definitions for i in d.indices), *(d.expression for d in definitions))


def short_symbols(names: Sequence[str]) -> dict[str, str]:
    """Return a Greek letter for each name that is a word.

    Names that differ only in their last letter share the Greek letter and keep the last one as subscript (strideh,
    stridew).
    """
    words = [name for name in names if name_parts(name)[0].startswith(r"\mathit")]
    stems = {word: word[:-1] if any(w != word and w[:-1] == word[:-1] for w in words) else word for word in words}
    letters = dict(zip(dict.fromkeys(stems.values()), _GREEK_POOL, strict=False))
    return {
        word: letters[stem] + (f"_{{{word[-1]}}}" if stem != word else "")
        for word, stem in stems.items()
        if stem in letters
    }
