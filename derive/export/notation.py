r"""Expressions as LaTeX, in the notation of the derivations.

An entry is ``W_{ij}``; a sum ``\sum_{j}`` runs over the whole axis of its index; ``[0 \le e < n]`` and ``[d \mid e]``
are Iverson brackets. The printer recognises sums by their *shape*, never by a name: one sum over exactly the last axis
of every factor prints as a squared norm ``\lVert x_{s} \rVert^{2}`` or a product ``x_{s} \cdot x_{s'}``.

Not done here: breaking long lines (``linebreak``); prose and labels (``outline``, ``latex``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import sympy
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul, Pow, Rational, S, Symbol
from sympy.core.alphabets import greeks
from sympy.printing.latex import translate

from derive.algebra.index import Index, Remainder
from derive.algebra.nodes import AtZero, Divides, IndexedSum, PartialDerivative, Within
from derive.export.letters import Hints, Scope, free_indices, root_scope
from derive.export.order import ordered_terms, split_fraction
from derive.export.reduction_notation import ReductionNotation

_GREEK = {name: rf"\{name}" for name in greeks} | {"lamda": r"\lambda", "lambda": r"\lambda", "omicron": "o"}
_ACCENTED = re.compile(r"(\w+?)(hat|bar|tilde)")
_MARKED = re.compile(r"([A-Za-z]+?)_?(\d+)|([A-Za-z]+)_([A-Za-z]+)|([A-Za-z])([A-Za-z])")
_RAISED = {"sin", "cos", "tan", "sinh", "cosh", "tanh"}  # functions whose power is written after the name
_LETTER = re.compile(r"([A-Za-z]|\\[a-z]+)(_\{\w+\})?'*")


def latex(
    expression: Expr,
    hints: Hints | None = None,
    reserve: Sequence[Expr] = (),
    aliases: Mapping[str, str] | None = None,
    *,
    reserved: frozenset[str] = frozenset(),
    renamed: Mapping[str, str] | None = None,
    ranges: dict[str, Expr] | None = None,
) -> str:
    """Return an expression as LaTeX (amsmath); letters of bound indices clash with no other name.

    ``hints`` prefers a letter for an axis length; names in ``reserve`` and ``reserved`` are not given to bound indices;
    ``aliases`` are short symbols (in LaTeX) for scalars with long names; ``renamed`` are other letters for indices;
    ``ranges``, shared by the sides of one equation, keeps each letter to one axis.
    """
    scope = root_scope(expression, *reserve, hints=hints, reserved=reserved, renamed=renamed, ranges=ranges)
    return NotationPrinter(scope, aliases or {}).doprint(expression)


def name_parts(name: str) -> tuple[str, str]:
    r"""Split a name into its LaTeX letter and its mark.

    ``W_Q`` and ``WQ`` give ``W``, ``Q``; ``gamma2`` gives ``\gamma``, ``2``. Any other name is one word in italics
    without a mark.
    """
    bare = name.rstrip("'")
    if bare != name:
        letter, mark = name_parts(bare)
        return letter + name[len(bare) :], mark
    match = None if _letter(name) else _MARKED.fullmatch(name)
    stem, mark = (part for part in match.groups() if part) if match else (name, "")
    known = _letter(stem)
    if known is None and mark.isdigit():
        return rf"\mathit{{{escaped_name(stem)}}}", mark
    if known is None:
        return rf"\mathit{{{escaped_name(name)}}}", ""
    return known, mark if len(mark) < 2 or mark.isdigit() else rf"\mathrm{{{mark}}}"


def escaped_name(name: str) -> str:
    r"""Return an identifier for LaTeX's math mode; characters that an identifier cannot hold are left out."""
    return re.sub(r"[^\w]", "", name, flags=re.ASCII).replace("_", r"\_")


def _letter(stem: str) -> str | None:
    r"""Return the LaTeX of one letter, Greek or Latin, plain or accented (``xhat``); None for a word."""
    if stem in _GREEK:
        return _GREEK[stem]
    if stem.lower() in _GREEK and stem.istitle():
        return str(translate(stem))
    if len(stem) == 1 and stem.isascii() and stem.isalpha():
        return stem
    match = _ACCENTED.fullmatch(stem)
    inner = _letter(match[1]) if match else None
    return rf"\{match[2]}{{{inner}}}" if match and inner else None


class NotationPrinter(ReductionNotation):
    """SymPy's LaTeX printer with our nodes, our order of terms and letters chosen by scope."""

    def __init__(self, scope: Scope, aliases: Mapping[str, str]) -> None:
        super().__init__({"inv_trig_style": "full"})
        self._scope = scope
        self._printed: dict[Expr, str] = {}  # cache of this scope: sorting prints every part before it is written
        self._aliases = aliases

    def _print(self, expr: Expr, **settings: object) -> str:
        if settings or not isinstance(expr, Expr):
            return str(super()._print(expr, **settings))
        if expr not in self._printed:
            self._printed[expr] = str(super()._print(expr))
        return self._printed[expr]

    # Names

    def _print_Index(self, expression: Index) -> str:
        name = self._scope.name(expression)
        bare = name.rstrip("'")
        letter, mark = name_parts(bare)
        return letter + (f"_{{{mark}}}" if mark else "") + name[len(bare) :]

    def _print_Symbol(self, expression: Symbol, style: str = "plain") -> str:
        if expression.name in self._aliases:
            return self._aliases[expression.name]
        letter, mark = name_parts(expression.name)
        return f"{letter}_{{{mark}}}" if mark else letter

    def _print_IndexedBase(self, expression: sympy.IndexedBase) -> str:
        return self._tensor(str(expression.label))

    def _print_Indexed(self, expression: Indexed) -> str:
        return f"{self._print(expression.base)}_{{{self._subscripts(expression.indices)}}}"

    def _tensor(self, name: str) -> str:
        r"""Return a tensor's name with its mark as superscript (indices are subscripts): ``W^{(1)}``, ``W^{Q}``."""
        bare = name.rstrip("'")
        if len(bare) == 2 and bare.isalpha() and bare.islower() and _letter(bare) is None:
            return rf"\mathit{{{bare}}}" + name[len(bare) :]
        letter, mark = name_parts(name)
        if not mark:
            return letter
        return f"{letter}^{{{mark}}}" if mark[0].isupper() else f"{letter}^{{({mark})}}"

    def _subscripts(self, indices: Sequence[Expr]) -> str:
        """Return indices side by side, with commas if one is more than a letter, and `;` before a kernel's second half.

        That half repeats the first, primed or at the same sample.
        """
        printed = [self._print(index) for index in indices]
        if any(not _LETTER.fullmatch(p) for p in printed):
            return ", ".join(printed)
        half = len(printed) // 2
        repeated = len(printed) == 2 * half > 2 and all(
            b in (a, f"{a}'") for a, b in zip(printed[:half], printed[half:], strict=True)
        )
        if repeated:
            return " ".join(printed[:half]) + "; " + " ".join(printed[half:])
        return " ".join(printed)

    # Sums

    def _print_IndexedSum(self, expression: IndexedSum) -> str:
        known = self._vectors(expression)
        if known:
            left, right = known
            return rf"\lVert {left} \rVert^{{2}}" if left == right else rf"{left} \cdot {right}"
        outer = self._scope, self._printed
        self._scope, self._printed = self._scope.enter(expression.bound), {}
        letters = ", ".join(self._print(index) for index in expression.bound)
        body = self._print(expression.body)
        body = rf"\left( {body} \right)" if expression.body.is_Add or body.startswith("-") else body
        self._scope, self._printed = outer
        return rf"\sum_{{{letters}}} {body}"

    def _vectors(self, expression: IndexedSum) -> tuple[str, str] | None:
        """Return the two vectors whose product over their last axis this sum is, or None."""
        entries = _two_entries(expression)
        if entries is None:
            return None
        first, second = sorted((self._vector(e) for e in entries), key=lambda p: p.replace("'", "~"))
        return first, second

    def _vector(self, entry: Indexed) -> str:
        rest = entry.indices[:-1]
        return f"{self._print(entry.base)}_{{{self._subscripts(rest)}}}" if rest else self._print(entry.base)

    def _norm(self, expression: Expr) -> str | None:
        if not isinstance(expression, IndexedSum):
            return None
        known = self._vectors(expression)
        return rf"\lVert {known[0]} \rVert" if known and known[0] == known[1] else None

    # Deltas, guards and derivatives

    def _print_KroneckerDelta(self, expression: KroneckerDelta, exp: str | None = None) -> str:
        arguments = sorted((self._print(a) for a in expression.args), key=lambda p: p.replace("'", "~"))
        plain = all(_LETTER.fullmatch(a) for a in arguments)
        return rf"\delta_{{{(' ' if plain else ', ').join(arguments)}}}"

    def _print_Within(self, expression: Within) -> str:
        value, size = (self._print(a) for a in expression.args)
        return rf"\left[ 0 \le {value} < {size} \right]"

    def _print_Divides(self, expression: Divides) -> str:
        divisor, value = (self._print(a) for a in expression.args)
        return rf"\left[ {divisor} \mid {value} \right]"

    def _print_Max(self, expression: sympy.Max, exp: str | None = None) -> str:
        arguments = ", ".join(self._print(a) for a in sorted(expression.args, key=lambda a: a.is_number))
        return rf"\{expression.func.__name__.lower()}\left( {arguments} \right)"

    _print_Min = _print_Max

    def _print_Heaviside(self, expression: sympy.Heaviside, exp: str | None = None) -> str:
        r"""Print a step as a comparison: ``[u > v]`` for a step of ``u - v``."""
        terms = Add.make_args(expression.args[0])
        below = [-term for term in terms if term.could_extract_minus_sign()]
        above = [term for term in terms if not term.could_extract_minus_sign()]
        sides = (self._print(Add(*side)) for side in (above, below))
        return r"\left[ {} > {} \right]".format(*sides)

    def _print_PartialDerivative(self, expression: PartialDerivative) -> str:
        variable = self._print(expression.variable)
        if isinstance(expression.expression, Indexed | Symbol):
            return rf"\frac{{\partial {self._print(expression.expression)}}}{{\partial {variable}}}"
        return rf"\frac{{\partial}}{{\partial {variable}}}{self._bracketed(expression.expression)}"

    def _print_AtZero(self, expression: AtZero) -> str:
        body, variable = (self._print(a) for a in expression.args)
        return rf"\frac{{\partial}}{{\partial {variable}}}\left[ {body} \right]_{{{variable} = 0}}"

    def _print_Subs(self, expression: sympy.Subs) -> str:
        """Print a derivative of an undefined function at a point with primes: sigma'(u)."""
        inner = expression.expr
        if isinstance(inner, sympy.Derivative) and len(expression.point) == 1 and len(inner.variable_count) == 1:
            return self._derived(inner, expression.point[0])
        return str(super()._print_Subs(expression))

    def _print_Derivative(self, expression: sympy.Derivative) -> str:
        applied = isinstance(expression.expr, sympy.core.function.AppliedUndef)
        if applied and len(expression.expr.args) == 1:
            return self._derived(expression, expression.expr.args[0])
        return str(super()._print_Derivative(expression))

    def _derived(self, derivative: sympy.Derivative, point: Expr) -> str:
        primes = "'" * int(derivative.variable_count[0][1])
        name = self._print_Symbol(Symbol(derivative.expr.func.__name__))
        return f"{name}{primes}{self._bracketed(point)}"

    def _print_AppliedUndef(self, expression: Expr) -> str:
        arguments = ", ".join(self._print(a) for a in expression.args)
        return rf"{self._print_Symbol(Symbol(expression.func.__name__))}\left( {arguments} \right)"

    # Terms, products and powers

    def _print_Add(self, expression: Add, order: object = None) -> str:
        line = ""
        for term in ordered_terms(expression, self._print):
            printed = self._print(term)
            if not line:
                line = printed
            elif printed.startswith("-"):
                line += f" - {printed[1:].lstrip()}"
            else:
                line += f" + {printed}"
        return line

    def _print_Mul(self, expression: Mul) -> str:
        fraction = split_fraction(expression, self._print)
        sign = "- " if fraction.negative else ""
        if not fraction.denominator:
            return sign + self._product(fraction.numerator)
        trailing = [f for f in fraction.numerator if self._is_tall(f)]
        above = self._product([f for f in fraction.numerator if not self._is_tall(f)]) or "1"
        line = rf"{sign}\frac{{{above}}}{{{self._product(fraction.denominator)}}}"
        return f"{line} {self._product(trailing, alone=False)}" if trailing else line

    def _is_tall(self, factor: Expr) -> bool:
        """Return whether a factor is easier to read beside a fraction than in its numerator."""
        return isinstance(factor, IndexedSum) and not _two_entries(factor)

    def _product(self, items: Sequence[Expr], alone: bool = True) -> str:
        if alone and len(items) == 1:
            return self._print(items[0])
        printed = [self._factor(item, last=position == len(items) - 1) for position, item in enumerate(items)]
        line = printed[0] if printed else ""
        for left, right in pairwise(printed):
            digits = left[-1].isdigit() and right[0].isdigit()
            word = left.startswith(r"\mathit") or right.startswith(r"\mathit")
            line += (r" \cdot " if digits else r" \, " if word else " ") + right
        return line

    def _factor(self, item: Expr, last: bool) -> str:
        if (
            item.is_Add
            or isinstance(item, Remainder)
            or (isinstance(item, IndexedSum) and self._needs_brackets(item, last))
        ):
            return self._bracketed(item)
        return str(self._print(item))

    def _needs_brackets(self, item: IndexedSum, last: bool) -> bool:
        return self._norm(item) is None and (not last or _two_entries(item) is not None)

    def _print_Pow(self, expression: Pow) -> str:
        base, exponent = expression.args
        if base is S.Exp1:
            return f"e^{{{self._print(exponent)}}}"
        if isinstance(exponent, Rational) and exponent < 0:
            return rf"\frac{{1}}{{{self._print(Pow(base, -exponent))}}}"
        norm = self._norm(base)
        if norm:
            return norm if exponent == S.Half else f"{norm}^{{{self._print(2 * exponent)}}}"
        if exponent == S.Half:
            return rf"\sqrt{{{self._print(base)}}}"
        fractional = isinstance(exponent, Rational) and exponent.q != 1
        power = f"{exponent.p}/{exponent.q}" if fractional else self._print(exponent)
        if isinstance(base, sympy.Function) and base.func.__name__ in _RAISED:
            return str(self._print(base, exp=power))
        return f"{self._power_base(base)}^{{{power}}}"

    def _power_base(self, base: Expr) -> str:
        printed = str(self._print(base))
        # A prime is a superscript too, and TeX allows only one.
        name = base.name if base.is_Symbol else str(base.base.label) if isinstance(base, Indexed) else "'"
        plain = ("'" not in name and "^" not in printed) or (base.is_Integer and base >= 0)
        return printed if plain else rf"\left( {printed} \right)"


def _two_entries(expression: IndexedSum) -> tuple[Indexed, Indexed] | None:
    """Return the two factors of a sum over exactly their last axis; None for any other shape.

    The bound index must be the whole last index of both factors and occur nowhere else.
    """
    if len(expression.bound) != 1:
        return None
    body, index = expression.body, expression.bound[0]
    square = body.is_Pow and body.exp == 2
    pair = (body.base, body.base) if square else Mul.make_args(body)
    if len(pair) != 2 or not all(isinstance(f, Indexed) and f.indices[-1] == index for f in pair):
        return None
    rest = [i for f in pair for i in f.indices[:-1]]
    return None if any(index in free_indices(i) for i in rest) else (pair[0], pair[1])
