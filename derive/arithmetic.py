"""Arithmetic in Python *syntax*, read into exact SymPy expressions and never evaluated.

Stages: ``parse`` (text -> syntax tree; refuses by characters, length, nesting and node count before and after
``ast.parse``) and ``Arithmetic.read`` (syntax tree -> expression; a whitelist, one rule per node type). What a name, an
indexed name, ``sum[..](..)`` and a comparison mean is left to the languages built on it, formulas and angle functions.

Not supported: conditional expressions (``where`` is a function), strings, attributes, complex numbers.
"""

from __future__ import annotations

import ast
import re
import string
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import ClassVar, NoReturn

import sympy
from sympy import Expr, Rational

from derive.algebra.named import named
from derive.algebra.reductions import Stopped
from derive.excerpt import Excerpt, quote, suggestion
from derive.names import NAMED, REDUCTIONS
from derive.nearest import NEAREST_FUNCTIONS, nearest

LONGEST_TEXT = 4000
DEEPEST_BRACKETS = 24
DEEPEST_TREE = 100
MOST_NODES = 2000
MOST_DIGITS = 64
LARGEST_EXPONENT = 16
MOST_MAX_ARGUMENTS = 4

_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_[]()+-*/.,:=<>!% \t\n")
_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)
_ALL_FUNCTIONS: Mapping[str, Callable[..., Expr]] = {
    "sqrt": sympy.sqrt,
    "exp": sympy.exp,
    "log": sympy.log,
    "tanh": sympy.tanh,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "atan": sympy.atan,
    "abs": sympy.Abs,
    "max": sympy.Max,
    "min": sympy.Min,
    "clip": lambda v, low, high: sympy.Min(sympy.Max(v, low), high),
    "sign": sympy.sign,
    "stop_gradient": Stopped,
    **{name: named(name) for name in NAMED},
}
_EXTREMES = {"max": sympy.Max, "min": sympy.Min}
_NODES = (
    ast.Constant,
    ast.Name,
    ast.Subscript,
    ast.Slice,
    ast.Tuple,
    ast.UnaryOp,
    ast.BinOp,
    ast.Call,
    ast.Compare,
    ast.BoolOp,
)
_INSTEAD = {
    "^": "write a power with **, such as u[i]**2",
    "@": "write a product of matrices with its sum, sum[j](W[i, j]*x[j])",
    "?": "write a choice as where(j <= i, a, b)",
    "\\": "write no LaTeX: sum[j](W[i, j]*x[j]), exp(v), sqrt(v)",
}
_IMPOSSIBLE = (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo, sympy.I)
_WORDS = {
    ast.Lambda: "a lambda",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.Attribute: "an attribute (a name after a dot)",
    ast.Compare: "a comparison",
    ast.BoolOp: "'and' or 'or'",
    ast.IfExp: "a condition",
    ast.NamedExpr: "an assignment inside the formula",
    ast.Starred: "a starred argument",
    ast.Tuple: "a tuple",
    ast.List: "a list",
    ast.Slice: "a slice",
    ast.Await: "'await'",
    ast.Yield: "'yield'",
}


def parse(excerpt: Excerpt, mode: str) -> ast.AST:
    """Return the syntax tree of a short, flat text (``mode`` as for ``ast.parse``), or raise ``SpecError`` fast.

    Column offsets of the tree are offsets into ``excerpt.text``.
    """
    _scan(excerpt)
    text = excerpt.text.replace("\n", " ").replace("\t", " ")
    skipped = len(text) - len(text.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(text.lstrip(), mode=mode)
    except SyntaxError as error:
        start = min(max((error.offset or 1) - 1 + skipped, 0), max(len(text) - 1, 0))
        excerpt.fail(f"cannot read this: {error.msg}", "fix the brackets and operators around it", start, start + 1)
    except (ValueError, RecursionError, MemoryError):
        excerpt.fail("the formula is nested too deeply to be read", "split it with intermediate definitions")
    _measure(excerpt, tree, skipped)
    return tree


def _scan(excerpt: Excerpt) -> None:
    """Refuse text that must not reach the parser, by its characters alone."""
    text = excerpt.text
    if not text.strip():
        excerpt.fail("the formula is empty", 'write one such as "z[i] = sum[j](W[i, j]*x[j]) + b[i]"')
    if len(text) > LONGEST_TEXT:
        excerpt.fail(
            f"the formula has {len(text)} characters, more than {LONGEST_TEXT}",
            "split it with intermediate definitions",
            end=1,
        )
    depth = 0
    for k, character in enumerate(text):
        if character not in _CHARACTERS:
            excerpt.fail(
                f"character {character!a} has no meaning in a formula",
                _INSTEAD.get(character, "use ASCII letters, digits and _ [ ] ( ) + - * / . , only"),
                k,
                k + 1,
            )
        depth += (character in "([") - (character in ")]")
        if depth > DEEPEST_BRACKETS:
            excerpt.fail(
                f"brackets are nested deeper than {DEEPEST_BRACKETS}",
                "split the formula with intermediate definitions",
                k,
                k + 1,
            )


def _measure(excerpt: Excerpt, tree: ast.AST, skipped: int) -> None:
    """Shift the tree's columns to offsets of the text, and refuse one that is too large or too deep."""
    nodes, level, depth = 0, [tree], 0
    while level:
        depth += 1
        nodes += len(level)
        if nodes > MOST_NODES or depth > DEEPEST_TREE:
            what = (
                f"has more than {MOST_NODES} parts"
                if nodes > MOST_NODES
                else f"is deeper than {DEEPEST_TREE} operations"
            )
            excerpt.fail(f"the formula {what}", "split it with intermediate definitions", end=1)
        for node in level:
            if isinstance(node, ast.expr | ast.stmt | ast.keyword):
                node.col_offset += skipped
                node.end_col_offset = (node.end_col_offset or 0) + skipped
        level = [child for node in level for child in ast.iter_child_nodes(node)]


class Arithmetic(ABC):
    """Reads the whitelisted nodes of one text; each language defines the meaning of names and indexed names."""

    functions: ClassVar[tuple[str, ...]]
    fix: ClassVar[str]

    def __init__(self, excerpt: Excerpt) -> None:
        self.excerpt = excerpt

    def screen(self, tree: ast.expr) -> None:
        """Refuse a tree that holds any node outside the language; this is reported before other mistakes."""
        brackets = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
        lists = [part for part in brackets if isinstance(part, ast.Tuple)]
        inside = {id(part) for part in (*brackets, *(element for part in lists for element in part.elts))}
        for node in ast.walk(tree):
            if isinstance(node, ast.expr) and not isinstance(node, _NODES):
                self.refuse(node)
            if isinstance(node, ast.Tuple | ast.Slice) and id(node) not in inside:
                self.refuse(node)
            if isinstance(node, ast.Constant):
                self.number(node)

    @abstractmethod
    def name(self, node: ast.Name) -> Expr:
        """Return the meaning of a bare name."""

    @abstractmethod
    def entry(self, node: ast.Subscript) -> Expr:
        """Return the meaning of an indexed name."""

    @abstractmethod
    def total(self, node: ast.Call, head: ast.Subscript) -> Expr:
        """Return the value of ``head(...)``, a call whose function carries an index."""

    def fail(self, node: ast.expr | ast.stmt | ast.keyword, problem: str, fix: str) -> NoReturn:
        """Raise a ``SpecError`` that marks the node."""
        self.excerpt.fail(problem, fix, node.col_offset, node.end_col_offset)

    def text(self, node: ast.expr) -> str:
        """Return the node as the user wrote it."""
        return self.excerpt.text[node.col_offset : node.end_col_offset]

    def refuse(self, node: ast.expr) -> NoReturn:
        """Raise a ``SpecError`` for a node that the language does not have."""
        what = _WORDS.get(type(node)) or quote(self.text(node))
        if isinstance(node, ast.IfExp):
            self.fail(node, f"{what} has no meaning here", f"write it as where(condition, a, b); {self.fix}")
        self.fail(node, f"{what} has no meaning here", self.fix)

    def read(self, node: ast.expr) -> Expr:
        """Return the expression of a node, or raise ``SpecError`` for anything that is not on the whitelist."""
        match node:
            case ast.Constant():
                return self.number(node)
            case ast.Name():
                return self.name(node)
            case ast.Subscript():
                return self.entry(node)
            case ast.UnaryOp(op=ast.USub()):
                return -self.read(node.operand)
            case ast.UnaryOp(op=ast.UAdd()):
                return self.read(node.operand)
            case ast.BinOp(op=ast.Pow()):
                return self.possible(node, self.power(node))
            case ast.BinOp():
                return self.possible(node, self._operation(node))
            case ast.Call(func=ast.Subscript() as head):
                return self.total(node, head)
            case ast.Call():
                return self.possible(node, self.function(node))
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return self.condition(node)
        self.refuse(node)

    def condition(self, node: ast.expr) -> Expr:
        """Return the value of a comparison; a language without comparisons refuses it."""
        self.refuse(node)

    def arguments(self, node: ast.Call) -> list[Expr]:
        """Return the plain arguments of a call."""
        for keyword in node.keywords:
            self.fail(keyword, "an argument with a name has no meaning here", "pass it by position")
        return [self.read(argument) for argument in node.args]

    def number(self, node: ast.Constant) -> Rational:
        """Return a decimal literal as the exact rational that it spells."""
        text = self.text(node)
        if not _NUMBER.fullmatch(text):
            self.fail(node, f"{quote(text)} is not a plain number", "write an integer or a decimal such as 2 or 0.5")
        if len(text) > MOST_DIGITS:
            self.fail(node, f"number {quote(text, 20)} is longer than {MOST_DIGITS} digits", "shorten it")
        value = Fraction(text)
        return Rational(value.numerator, value.denominator)

    def _operation(self, node: ast.BinOp) -> Expr:
        left, right = self.read(node.left), self.read(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
        fix = "use + - * / and **; // and % are allowed only in brackets and conditions"
        self.fail(node, "this operator has no meaning in a formula", fix)

    def power(self, node: ast.BinOp) -> Expr:
        """Return a power with a literal exponent."""
        return self.read(node.left) ** self.exponent(node.right)

    def exponent(self, node: ast.expr) -> Expr:
        """Return a literal exponent: an integer, a decimal or a fraction of integers, with or without a sign."""
        value = self._literal(node)
        if value is None:
            self.fail(
                node,
                f"exponent {quote(self.text(node))} is not a number",
                "write it as an integer or a fraction, such as 2, -1 or (1/2); for other powers use exp and log",
            )
        return self.sensible(node, value)

    def sensible(self, node: ast.expr, value: Rational) -> Rational:
        """Return an exponent that is not too large."""
        if abs(value) > LARGEST_EXPONENT or value.q > LARGEST_EXPONENT:
            self.fail(
                node,
                f"exponent {quote(self.text(node))} is too large",
                f"keep it, and its denominator, at most {LARGEST_EXPONENT}",
            )
        return value

    def _literal(self, node: ast.expr) -> Rational | None:
        match node:
            case ast.Constant():
                return self.number(node)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() | ast.BinOp()):
                value = self._literal(node.operand)
                return None if value is None else -value
            case ast.BinOp(left=ast.Constant() | ast.UnaryOp(), op=ast.Div(), right=ast.Constant()):
                top, bottom = self._literal(node.left), self._literal(node.right)
                return top / bottom if top is not None and bottom else None
        return None

    def function(self, node: ast.Call) -> Expr:
        """Return a call of one of the language's functions."""
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name in REDUCTIONS and name not in self.functions:
            self.fail(node.func, f"{name} has no index", f"write what it runs over, such as {name}[j](...)")
        if name not in self.functions:
            stem, _, index = (name or "").partition("_")
            reduced = f"write its index in brackets, {stem}[{index}](...); " if stem in REDUCTIONS and index else ""
            near = reduced or suggestion(name or "", self.functions)
            fix = nearest(name or "", NEAREST_FUNCTIONS) or near + self.fix
            self.fail(node.func, f"{quote(self.text(node.func))} is not a function of this language", fix)
        return self.called(node, self.arguments(node))

    def called(self, node: ast.Call, arguments: list[Expr]) -> Expr:
        """Return a function of the language at its arguments, or refuse their number."""
        name = self.text(node.func)
        extreme = _EXTREMES.get(str(name))
        count = sum(len(extreme.make_args(a)) for a in arguments) if extreme else len(arguments)
        least, most = (2, MOST_MAX_ARGUMENTS) if extreme else (3, 3) if name == "clip" else (1, 1)
        if not least <= count <= most:
            wanted = "one argument" if most == 1 else "three arguments: the value, the least and the greatest result"
            wanted = f"{least} to {most} arguments, nested ones included" if extreme else wanted
            self.fail(node, f"{name} has {count} arguments", f"give it {wanted}")
        return _ALL_FUNCTIONS[name](*arguments)

    def possible(self, node: ast.expr, value: Expr) -> Expr:
        """Return the value if it is a real number, or an expression, of sensible magnitude."""
        if isinstance(value, Rational):
            bad = max(abs(value.p), value.q) >= 10**MOST_DIGITS
        elif isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Pow | ast.Div):
            return value
        elif value.has(*_IMPOSSIBLE):
            self.fail(
                node,
                f"{quote(self.text(node))} is not a real number",
                "remove the division by zero, or the root or logarithm of a negative number",
            )
        else:
            bad = bool(value.is_number) and not _moderate(value)
        if bad:
            self.fail(node, f"constant {quote(self.text(node))} is too large or too small", "scale the formula")
        return value


def _moderate(value: Expr) -> bool:
    """Return whether a constant is zero or of a magnitude that later arithmetic can handle."""
    size = abs(value.evalf(6))
    return bool(size == 0 or (size > 10**-MOST_DIGITS and size < 10**MOST_DIGITS))
