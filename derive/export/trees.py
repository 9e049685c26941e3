"""Expressions as JSON trees and back: data only, so that a file can be read without running anything in it.

A node is ``{"op": ..., ...}``; the ops are those of ``_NODES`` and ``_READERS``. Reading checks every name, bounds
depth, size and numbers, and raises TreeError for anything else; only SymPy's constructors run, on checked arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul, Pow, Rational, Symbol

from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.named import DEFINITIONS, HIGHEST_ORDER, Named, named
from derive.algebra.nodes import AtMost, AtZero, Binder, Divides, IndexedSum, PartialDerivative, Within, tensor
from derive.algebra.reductions import Attains, Largest, LogSumExp, Masked, Product, Softmax, Stopped
from derive.errors import UsageError

Tree = dict[str, Any]

MAX_DEPTH = 80
MAX_NODES = 400_000
_MAX_DIGITS = 60
_MAX_POWER_DIGITS = 2_000
_MAX_TAG = 10**9
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}'{0,8}")

_NODES: dict[str, Any] = {
    "add": Add,
    "mul": Mul,
    "pow": Pow,
    "delta": KroneckerDelta,
    "within": Within,
    "divides": Divides,
    "at_most": AtMost,
    "softmax": Softmax,
    "masked": Masked,
    "attains": Attains,
    "stop_gradient": Stopped,
    "quotient": Quotient,
    "remainder": Remainder,
    "derivative": PartialDerivative,
    "at_zero": AtZero,
}
_TRIGONOMETRIC = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh")
_FUNCTIONS: dict[str, Any] = {
    name: getattr(sympy, name) for name in ("exp", "log", *_TRIGONOMETRIC, "Abs", "Max", "Min", "sign", "Heaviside")
}
_CONSTANTS = {"pi": sympy.pi, "E": sympy.E, "oo": sympy.oo, "-oo": -sympy.oo}
_ARITY = dict.fromkeys(set(_NODES) - {"add", "mul"}, 2) | {"stop_gradient": 1}
_BINDERS: dict[str, Any] = {"sum": IndexedSum, "logsumexp": LogSumExp, "max": Largest, "prod": Product}
_BINDING = {kind: op for op, kind in _BINDERS.items()}
_SIGNS = ((), ("real",), ("positive",), ("nonnegative",))
_ASSUMPTIONS = (*_SIGNS, *(("integer", *sign) for sign in _SIGNS if sign != ("real",)))
_OPS = {kind: op for op, kind in _NODES.items()}


class TreeError(UsageError):
    """A JSON tree that is not an expression; the text names the value and what is allowed."""


def to_tree(expression: Expr) -> Tree:
    """Return an expression as a JSON tree; raise TypeError for a node that occurs in no derivation."""
    if isinstance(expression, Index):
        return {"op": "index", "name": expression.name, "size": to_tree(expression.size), "tag": expression.tag}
    if isinstance(expression, Symbol):
        return {"op": "symbol", "name": expression.name, "assumptions": list(_assumptions(expression))}
    if isinstance(expression, Indexed):
        return {"op": "entry", **_tensor_tree(expression.base), "indices": [to_tree(i) for i in expression.indices]}
    if isinstance(expression, Binder):
        op = _BINDING[type(expression)]
        return {"op": op, "body": to_tree(expression.body), "bound": [to_tree(i) for i in expression.bound]}
    if isinstance(expression, Rational):
        return {"op": "number", "p": int(expression.p), "q": int(expression.q)}
    for name, constant in _CONSTANTS.items():
        if expression == constant:
            return {"op": "constant", "name": name}
    return _call_tree(expression)


def _call_tree(expression: Expr) -> Tree:
    kind: type[Any] = expression.func
    # A step's second argument is its value at the jump, always one half.
    arguments = [to_tree(a) for a in (expression.args[:1] if kind is sympy.Heaviside else expression.args)]
    if isinstance(expression, Named):
        return {"op": "named", "name": expression.stem, "order": expression.order, "args": arguments}
    if kind in _OPS:
        return {"op": _OPS[kind], "args": arguments}
    if _FUNCTIONS.get(kind.__name__) is kind:
        return {"op": "call", "name": kind.__name__, "args": arguments}
    if isinstance(expression, sympy.core.function.AppliedUndef):
        return {"op": "apply", "name": kind.__name__, "args": arguments}
    raise TypeError(f"no JSON for {kind.__name__} in {expression}")


def _tensor_tree(base: IndexedBase) -> Tree:
    values = getattr(base, "values", None)
    named: Tree = {"tensor": str(base.label)}
    return named if values is None else {**named, "values": to_tree(values)}


def _assumptions(symbol: Symbol) -> tuple[str, ...]:
    for wanted in _ASSUMPTIONS:
        if Symbol(symbol.name, **dict.fromkeys(wanted, True)) == symbol:
            return wanted
    raise TypeError(f"no JSON for the assumptions of the symbol {symbol}")


def from_tree(tree: object) -> Expr:
    """Return the expression of a JSON tree; raise TreeError for a tree that ``to_tree`` cannot have written."""
    try:
        read = _Reader().read(tree, 0)
    except TreeError:
        raise
    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as problem:
        raise TreeError(f"SymPy refuses this tree: {type(problem).__name__}") from None
    if read.has(sympy.nan, sympy.zoo):
        raise TreeError("a tree holds a division by zero")
    return read


class _Reader:
    """Reads one tree and counts its nodes."""

    def __init__(self) -> None:
        self._nodes = 0

    def read(self, tree: object, depth: int) -> Expr:
        """Return the expression of a tree; raise TreeError if it is too large, unknown or malformed."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise TreeError(f"the tree is too large: at most {MAX_DEPTH} levels and {MAX_NODES} nodes")
        if not isinstance(tree, Mapping):
            raise TreeError(f"a node must be an object with an 'op', not {_shown(tree)}")
        op = tree.get("op")
        reader = _READERS.get(op) if isinstance(op, str) else None
        if reader is not None:
            return reader(self, tree, depth)
        if isinstance(op, str) and op in _NODES:
            return self._node(op, self.many(tree.get("args"), depth))
        raise TreeError(f"unknown op {_shown(op)}; known: {', '.join(sorted({*_READERS, *_NODES}))}")

    def many(self, trees: object, depth: int) -> list[Expr]:
        """Return the expressions of a list of trees."""
        if not isinstance(trees, Sequence) or isinstance(trees, str):
            raise TreeError(f"a list of nodes is needed, not {_shown(trees)}")
        return [self.read(tree, depth + 1) for tree in trees]

    def _node(self, op: str, arguments: list[Expr]) -> Expr:
        if len(arguments) != _ARITY.get(op, len(arguments)):
            raise TreeError(f"{op} takes {_ARITY[op]} arguments, not {len(arguments)}")
        if op == "pow":
            _check_power(*arguments)
        built = _NODES[op](*arguments)
        if op in ("add", "mul") and set(built.args) != set(arguments) and len(arguments) > 1:
            return _NODES[op](*arguments, evaluate=False)  # SymPy would expand 2*(a + b)
        return built

    def number(self, tree: Mapping[str, Any], depth: int) -> Expr:
        """Return a rational number."""
        numerator, denominator = (_integer(tree.get(key), 10**_MAX_DIGITS) for key in ("p", "q"))
        if denominator < 1:
            raise TreeError(f"a denominator must be positive, not {denominator}")
        return Rational(numerator, denominator)

    def constant(self, tree: Mapping[str, Any], depth: int) -> Expr:
        """Return a constant that is known by name."""
        name = tree.get("name")
        if not isinstance(name, str) or name not in _CONSTANTS:
            raise TreeError(f"unknown constant {_shown(name)}; known: {', '.join(_CONSTANTS)}")
        return _CONSTANTS[name]

    def symbol(self, tree: Mapping[str, Any], depth: int) -> Expr:
        """Return a symbol with known assumptions."""
        wanted = tree.get("assumptions")
        if not isinstance(wanted, list) or tuple(wanted) not in _ASSUMPTIONS:
            raise TreeError(f"unknown assumptions {_shown(wanted)}")
        return Symbol(_name(tree.get("name")), **dict.fromkeys(wanted, True))

    def index(self, tree: Mapping[str, Any], depth: int) -> Index:
        size = self.read(tree.get("size"), depth + 1)
        return Index(_name(tree.get("name")), size, _integer(tree.get("tag"), _MAX_TAG))

    def entry(self, tree: Mapping[str, Any], depth: int) -> Expr:
        """Return an entry of a tensor."""
        values = self.read(tree["values"], depth + 1) if "values" in tree else None
        indices = self.many(tree.get("indices"), depth)
        if not indices:
            raise TreeError(f"an entry of {_shown(tree.get('tensor'))} needs an index")
        return tensor(_name(tree.get("tensor")), values=values)[tuple(indices)]

    def binder(self, tree: Mapping[str, Any], depth: int) -> Expr:
        """Return a sum, or another reduction, over bound indices."""
        bound = self.many(tree.get("bound"), depth)
        if not bound or not all(isinstance(index, Index) for index in bound):
            raise TreeError(f"a {tree['op']} needs bound indices")
        return _BINDERS[tree["op"]](self.read(tree.get("body"), depth + 1), *bound)

    def named(self, tree: Mapping[str, Any], depth: int) -> Expr:
        """Return a named function, or a derivative of it, of one argument."""
        name, order = tree.get("name"), _integer(tree.get("order"), HIGHEST_ORDER)
        if not isinstance(name, str) or name not in DEFINITIONS or order < 0:
            raise TreeError(f"unknown function {_shown(name)}; known: {', '.join(DEFINITIONS)}")
        arguments = self.many(tree.get("args"), depth)
        if len(arguments) != 1:
            raise TreeError(f"{name} takes one argument, not {len(arguments)}")
        return named(name, order)(*arguments)

    def call(self, tree: Mapping[str, Any], depth: int) -> Expr:
        """Return a known function of one argument, or the largest or smallest of several arguments."""
        name = tree.get("name")
        if not isinstance(name, str) or name not in _FUNCTIONS:
            raise TreeError(f"unknown function {_shown(name)}; known: {', '.join(_FUNCTIONS)}")
        arguments = self.many(tree.get("args"), depth)
        if not arguments or (len(arguments) > 1 and name not in ("Max", "Min")):
            raise TreeError(f"{name} takes one argument, not {len(arguments)}")
        return _FUNCTIONS[name](*arguments)

    def apply(self, tree: Mapping[str, Any], depth: int) -> Expr:
        return sympy.Function(_name(tree.get("name")))(*self.many(tree.get("args"), depth))


_READERS: dict[str, Callable[[_Reader, Mapping[str, Any], int], Expr]] = {
    "number": _Reader.number,
    "constant": _Reader.constant,
    "symbol": _Reader.symbol,
    "index": _Reader.index,
    "entry": _Reader.entry,
    **dict.fromkeys(_BINDERS, _Reader.binder),
    "named": _Reader.named,
    "call": _Reader.call,
    "apply": _Reader.apply,
}


def _check_power(base: Expr, exponent: Expr) -> None:
    """Refuse a power of numbers that would take long to compute."""
    if base.is_Rational and exponent.is_Rational:
        digits = len(str(max(abs(base.p), base.q)))
        if abs(exponent) * digits > _MAX_POWER_DIGITS or exponent.q > _MAX_DIGITS:
            raise TreeError("a power of numbers is too large")


def _integer(value: object, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > limit:
        raise TreeError(f"an integer of at most {limit:.0e} is needed, not {_shown(value)}")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise TreeError(f"not a name: {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
