"""The notation of one layer: which letter each of its axes prefers, and short symbols for its long names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sympy import Expr

from derive.export.blocks import Math
from derive.export.letters import Hints, hints_from
from derive.export.notation import latex, name_parts
from derive.forward_map import Layer

_GREEK_POOL = (r"\alpha", r"\beta", r"\rho", r"\tau", r"\mu", r"\nu", r"\omega")


@dataclass(frozen=True)
class Notation:
    """How the expressions of one layer are printed: a letter for each axis length, a symbol for each long name."""

    hints: Hints
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, expression: Expr, *beside: Expr) -> str:
        """Return the LaTeX of an expression; no bound index gets the name of a free one in what stands beside it."""
        return latex(expression, self.hints, beside, self.aliases)

    def math(self, expression: Expr) -> Math:
        """Return an expression as inline maths."""
        return Math(self(expression))


def notation_for(layer: Layer) -> Notation:
    """Return the notation of a layer: its own letters for its axes, Greek letters for its settings with long names."""
    definitions = (layer.output, *layer.definitions)
    hints = hints_from(*(i for d in definitions for i in d.indices), *(d.expression for d in definitions))
    return Notation(hints, short_symbols([s.name for s in (*layer.sizes, *layer.scalars)]))


def short_symbols(names: Sequence[str]) -> dict[str, str]:
    """Return a Greek letter for each name that is a word.

    Names alike but for their last letter share it and keep that letter below (strideh, stridew).
    """
    words = [name for name in names if name_parts(name)[0].startswith(r"\mathit")]
    stems = {word: word[:-1] if any(w != word and w[:-1] == word[:-1] for w in words) else word for word in words}
    letters = dict(zip(dict.fromkeys(stems.values()), _GREEK_POOL, strict=False))
    return {
        word: letters[stem] + (f"_{{{word[-1]}}}" if stem != word else "")
        for word, stem in stems.items()
        if stem in letters
    }
