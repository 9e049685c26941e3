"""Sentences with formulas: text between backticks is a formula in the language of the text printer.

    "solve the condition `f**2*E + h**2*c = kappa` for the scalar"

Terminals and JSON show it unchanged, without the backticks; documents set it as maths. Text that is not a formula stays
in a typewriter face.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Container
from typing import Any, ClassVar

import sympy
from sympy import Expr, KroneckerDelta, Symbol

from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import Divides, IndexedSum, Within, tensor
from derive.arithmetic import Arithmetic, parse
from derive.errors import UsageError
from derive.excerpt import Excerpt
from derive.export.blocks import Code, Inline, Math, Prose
from derive.export.symbols import Notation
from derive.indexing import is_reduction, parts
from derive.names import FUNCTIONS

_RELATIONS = {" = ": " = ", " > ": " > ", " < ": " < ", " <= ": r" \le ", " >= ": r" \ge ", " -> ": r" \to "}
_RELATION = re.compile("(" + "|".join(map(re.escape, _RELATIONS)) + ")")
_PRIME = "QQ"  # replaces a prime, which Python's syntax lacks


def plain(text: str) -> str:
    """Return a sentence as terminals and JSON show it."""
    return text.replace("`", "")


def inline(text: str, notation: Notation | None = None) -> Prose:
    """Return a sentence with its formulas as maths, in the notation of its layer."""
    pieces: list[Inline] = []
    for position, piece in enumerate(text.split("`")):
        if piece:
            pieces.append(_formula(piece, notation or Notation({})) if position % 2 else piece)
    return tuple(pieces)


def _formula(text: str, notation: Notation) -> Inline:
    """Return a formula, or several joined by relations, as maths."""
    sides = _RELATION.split(text)
    try:
        printed = [_RELATIONS[s] if s in _RELATIONS else notation(_read(s, notation)) for s in sides]
    except UsageError:
        return Code(text)
    return Math("".join(printed))


def _read(text: str, notation: Notation) -> Expr:
    # Neither a prime nor the word lambda is a name in Python's syntax.
    spelled = re.sub(r"\blambda\b", "lamda", re.sub(r"(\w)'", rf"\1{_PRIME}", text.strip()))
    excerpt = Excerpt(spelled)
    tree = parse(excerpt, "eval")
    assert isinstance(tree, ast.Expression)
    return _Formula(excerpt, notation.aliases).read(tree.body)


def _name(word: str) -> str:
    return word.replace(_PRIME, "'")


class _Formula(Arithmetic):
    """The language of printed formulas: every name is a symbol, or an index if it is in brackets."""

    functions: ClassVar[tuple[str, ...]] = FUNCTIONS
    fix: ClassVar[str] = "write it in the form of the text printer"
    _nodes: ClassVar[dict[str, Callable[..., Any]]] = {
        "delta": KroneckerDelta,
        "within": Within,
        "divides": Divides,
        "step": sympy.Heaviside,
        "sign": sympy.sign,
    }

    def __init__(self, excerpt: Excerpt, scalars: Container[str]) -> None:
        super().__init__(excerpt)
        self._scalars = scalars
        self._indices = 0

    def name(self, node: ast.Name) -> Expr:
        """Return a symbol, or an index inside brackets."""
        name = _name(node.id)
        plain = not self._indices or name in self._scalars
        return Symbol(name) if plain else Index(name, size_symbol(f"size_{name}"))

    def entry(self, node: ast.Subscript) -> Expr:
        """Return a tensor entry."""
        if not isinstance(node.value, ast.Name):
            self.refuse(node)
        return tensor(_name(node.value.id))[tuple(self._inside(part) for part in parts(node))]

    def total(self, node: ast.Call, head: ast.Subscript) -> Expr:
        """Return a sum over the indices in the brackets of its head."""
        if not is_reduction(head):
            self.refuse(head)
        return IndexedSum(self.read(node.args[0]), *(self._inside(part) for part in parts(head)))

    def function(self, node: ast.Call) -> Expr:
        """Return a function of numbers, or a condition on indices."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in self._nodes:
            return super().function(node)
        read = self.read if name in ("step", "sign") else self._inside
        return self._nodes[name](*(read(argument) for argument in node.args))

    def _inside(self, node: ast.expr) -> Expr:
        self._indices += 1
        found = self.read(node)
        self._indices -= 1
        return found
