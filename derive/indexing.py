"""The text inside brackets: index expressions, sizes, and the tensors that they index.

An index expression consists of integers, declared sizes, bound indices and entries of integer inputs, with + - * and
``//``, ``%`` (of any sign, by a positive divisor), min, max, abs and clip.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from itertools import pairwise
from typing import NoReturn

import sympy
from sympy import Expr, Indexed, Symbol

from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.nodes import AtMost
from derive.arithmetic import Arithmetic
from derive.excerpt import Excerpt, quote, suggestion
from derive.names import FUNCTIONS, REDUCTIONS, Named, Namespace
from derive.nearest import NEAREST_FUNCTIONS, NEAREST_REDUCTIONS, nearest


class Indexing(Arithmetic):
    """Arithmetic with tensors and the indices in scope; a formula adds the binders."""

    def __init__(self, excerpt: Excerpt, names: Namespace) -> None:
        super().__init__(excerpt)
        self.names = names
        self.scope: dict[str, Index] = {}

    def tensor(self, node: ast.Subscript) -> Named:
        """Return the tensor that is indexed, if it has as many axes as there are indices."""
        if not isinstance(node.value, ast.Name):
            self.fail(node, f"{quote(self.text(node.value))} cannot be indexed", self.fix)
        name, count = node.value.id, len(parts(node))
        if name not in self.names.tensors:
            self.unknown(node.value)
        named = self.names.tensors[name]
        if count != len(named.axes):
            given = f"{count} {'index is' if count == 1 else 'indices are'} given"
            self.fail(node, f"{name!r} has {axes_of(named)} but {given}", "give it one index per axis")
        return named

    def size(self, node: ast.expr) -> Expr:
        """Return a declared size or a positive integer."""
        found = length(node, self.names.sizes)
        if found is not None:
            return found
        near = suggestion(self.text(node), list(self.names.sizes))
        problem = f"{quote(self.text(node))} is not a declared size"
        self.fail(node, problem, near + "add it to 'sizes', or write a positive integer, or sums and products of them")

    def positions(self, node: ast.Subscript) -> tuple[Expr, ...]:
        """Return the index expressions of an entry; a number must lie within its axis."""
        found = tuple(self.position(part) for part in parts(node))
        for part, value, axis in zip(parts(node), found, self.tensor(node).axes, strict=True):
            if value.is_Integer and (value < 0 or (axis.is_Integer and value >= axis)):
                problem = f"index {value} lies outside the axis of size '{axis}'"
                self.fail(part, problem, f"count from 0 to {axis - 1}")
        return found

    def position(self, node: ast.expr) -> Expr:
        """Return an index expression."""
        match node:
            case ast.Constant():
                value = self.number(node)
                if not value.is_Integer:
                    self.fail(node, f"{self.text(node)!r} is used as an index", "indices are integers")
                return value
            case ast.Name():
                return self._index_name(node)
            case ast.UnaryOp(op=ast.USub()):
                return -self.position(node.operand)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult()):
                return self._index_operation(node)
            case ast.BinOp(op=ast.FloorDiv() | ast.Mod()):
                return self._division(node)
            case ast.Call(func=ast.Name(id="min" | "max" | "abs" | "clip")):
                return self.called(node, [self.position(a) for a in node.args])
            case ast.Subscript() if not is_reduction(node) and self.tensor(node).integer:
                return self.tensor(node).entry(self.positions(node))
        problem = f"{quote(self.text(node))} cannot be an index"
        fix = "an index holds integers, sizes, indices, integer inputs, + - * // % and min, max, abs, clip"
        self.fail(node, problem, fix)

    def delta(self, node: ast.Call) -> Expr:
        """Return ``delta(a, b)``, which is 1 where two index expressions agree and 0 elsewhere."""
        if len(node.args) != 2 or node.keywords:
            self.fail(node, "delta does not have two arguments", "give it two index expressions")
        left, right = (self.position(argument) for argument in node.args)
        return sympy.KroneckerDelta(left, right)

    def condition(self, node: ast.expr) -> Expr:
        """Return 1 where a condition holds and 0 elsewhere: ``j <= i``, ``0 <= i - j < w and i != k``, ``u[i] > 0``.

        A comparison of numbers is a step, half where both are equal; there it has no derivative.
        """
        match node:
            case ast.Compare():
                sides = [node.left, *node.comparators]
                of_numbers = any(map(self.is_number, sides))
                compared, read = (self._stepped, self.read) if of_numbers else (self._compared, self.position)
                pairs = zip(node.ops, pairwise(map(read, sides)), strict=True)
                return sympy.Mul(*(compared(node, op, *pair) for op, pair in pairs))
            case ast.BoolOp(op=ast.And()):
                return sympy.Mul(*map(self.condition, node.values))
            case ast.BoolOp(op=ast.Or()):
                return 1 - sympy.Mul(*(1 - self.condition(value) for value in node.values))
            case ast.UnaryOp(op=ast.Not()):
                return 1 - self.condition(node.operand)
        fix = "compare two index expressions or numbers, such as j <= i or u[i] > 0; join with and, or, not"
        self.fail(node, f"{quote(self.text(node))} is not a condition", fix)

    def is_number(self, node: ast.expr) -> bool:
        """Return whether a side of a comparison is a real number rather than an index expression."""
        for part in ast.walk(node):
            match part:
                case ast.Call(func=ast.Name(id="min" | "max" | "abs" | "clip")):
                    pass
                case ast.Call() | ast.BinOp(op=ast.Div() | ast.Pow()) | ast.Constant(value=float()):
                    return True
                case ast.Name(id=name) if name in self.names.scalars or name == "pi":
                    return True
                case ast.Name(id=name) if name in self.names.tensors and not self.names.tensors[name].integer:
                    return True
        return False

    def _stepped(self, node: ast.expr, operator: ast.cmpop, left: Expr, right: Expr) -> Expr:
        match operator:
            case ast.Gt() | ast.GtE():
                return sympy.Heaviside(left - right)
            case ast.Lt() | ast.LtE():
                return sympy.Heaviside(right - left)
        fix = "compare numbers by < or >, or index expressions by =="
        self.fail(node, f"{quote(self.text(node))} compares real numbers for equality", fix)

    def _compared(self, node: ast.expr, operator: ast.cmpop, left: Expr, right: Expr) -> Expr:
        match operator:
            case ast.LtE():
                return AtMost(left, right)
            case ast.Lt():
                return AtMost(left + 1, right)
            case ast.GtE():
                return AtMost(right, left)
            case ast.Gt():
                return AtMost(right + 1, left)
            case ast.Eq():
                return sympy.KroneckerDelta(left, right)
            case ast.NotEq():
                return 1 - sympy.KroneckerDelta(left, right)
        self.fail(node, f"{quote(self.text(node))} uses a comparison that indices do not have", "use <= < >= > == !=")

    def unknown(self, node: ast.Name) -> NoReturn:
        """Raise a ``SpecError`` for an unknown name."""
        near = suggestion(node.id, [*self.scope, *self.names.known, *FUNCTIONS, *REDUCTIONS])
        if node.id in FUNCTIONS or node.id in REDUCTIONS:
            fix = f"write its argument: {node.id}{'(u[i])' if node.id in FUNCTIONS else '[j](u[j])'}"
            self.fail(node, f"{quote(node.id)} has no argument", fix)
        if node.id == "e":
            near = "write powers of e as exp(v); "
        fix = near + "declare it as an input or a parameter, or define it earlier"
        fix = nearest(node.id, {**NEAREST_FUNCTIONS, **NEAREST_REDUCTIONS}) or fix
        self.fail(node, f"unknown name {quote(node.id)}", fix)

    def _index_operation(self, node: ast.BinOp) -> Expr:
        left, right = self.position(node.left), self.position(node.right)
        match node.op:
            case ast.Add():
                return self.possible(node, left + right)
            case ast.Sub():
                return self.possible(node, left - right)
        if left.has(Index, Indexed) and right.has(Index, Indexed):
            problem = f"{quote(self.text(node))} multiplies two indices"
            self.fail(node, problem, "multiply an index by integers and sizes only")
        if left.has(sympy.Add) and right.has(sympy.Add):
            # Products of sums make an index expression expensive to expand.
            self.fail(node, f"{quote(self.text(node))} multiplies two sums", "multiply it out")
        return self.possible(node, left * right)

    def _division(self, node: ast.BinOp) -> Expr:
        """Return the integer quotient of an index expression, or its remainder, by a positive number or size."""
        value, divisor = self.position(node.left), self.position(node.right)
        if divisor.has(Index, Indexed) or not divisor.is_positive:
            problem = f"{quote(self.text(node.right))} is not known to be positive and the same for every index"
            self.fail(node.right, problem, "divide by a positive integer or by sizes, such as i // 2 or i % n")
        return (Quotient if isinstance(node.op, ast.FloorDiv) else Remainder)(value, divisor)

    def _index_name(self, node: ast.Name) -> Expr:
        name = node.id
        if name in self.scope:
            return self.scope[name]
        for integers in (self.names.sizes, self.names.offsets):
            if name in integers:
                return integers[name]
        named = self.names.tensors.get(name)
        if named is not None and named.integer and not named.axes:
            return named.entry(())
        if named is not None:
            self.fail(node, f"{name!r} is not an integer input without axes, so it is no index", "declare its 'values'")
        fix = f"sum over it, sum[{name[:40]}](...), or put it on the left-hand side"
        self.fail(node, f"index {quote(name)} is not bound", suggestion(name, list(self.scope)) + fix)


def length(node: ast.expr, sizes: Mapping[str, Symbol]) -> Expr | None:
    """Return a size: a declared one, a positive integer, or sums and products of these; None for anything else."""
    match node:
        case ast.Name() if node.id in sizes:
            return sizes[node.id]
        case ast.Constant(value=int(value)) if not isinstance(value, bool) and 0 < value < 10**18:
            return sympy.Integer(value)
        case ast.BinOp(op=ast.Add() | ast.Mult()):
            left, right = length(node.left, sizes), length(node.right, sizes)
            if left is None or right is None:
                return None
            return sympy.expand(left + right if isinstance(node.op, ast.Add) else left * right)
    return None


def is_reduction(node: ast.Subscript) -> bool:
    """Return whether this is the ``sum[j]`` of a sum, or the head of another reduction."""
    return isinstance(node.value, ast.Name) and node.value.id in REDUCTIONS


def parts(node: ast.Subscript) -> list[ast.expr]:
    """Return the nodes between the brackets."""
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def axes_of(named: Named) -> str:
    """Return the axes in words: ``"2 axes (m, n)"``."""
    count = len(named.axes)
    if not count:
        return "no axes"
    return f"{count} {'axis' if count == 1 else 'axes'} ({', '.join(map(str, named.axes))})"
