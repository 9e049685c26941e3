"""SymPy scalar expressions as CUDA C++, in the wide type of the kernel (``Wide``: float, or double for double).

    sqrt(kappa)/(peak*sqrt(q + 1))      sqrt(kappa) / (peak * sqrt(q + 1))
    3*E**(3/2)/2                        3 * (E * sqrt(E)) / 2
    1/3, n a length                     Wide(1) / 3,  Wide(n)
    floor(n/2), Mod(n, 2)               n / 2, n % 2 on integers

A quotient of two integers is never printed as such, since C would truncate it: rationals get a ``Wide`` numerator, and
``floor`` and ``Mod`` of lengths are printed as integer operations. The text does not depend on SymPy's order of terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy
from sympy import Add, Expr, Indexed, Mul, Pow, Symbol
from sympy.core.relational import Relational

from codegen.printing.c_names import identifier
from derive.errors import UsageError

_FUNCTIONS = {
    "Abs": "fabs",
    "Max": "fmax",
    "Min": "fmin",
    **{name: name for name in ("exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh")},
    "erf": "erf",
}
_TERNARY, _SUM, _PRODUCT, _NEGATION, _ATOM = range(5)
_LONGEST_PRODUCT = 4
_LARGEST_INTEGER = 2**24  # float represents every integer up to this one


class ScalarPrinter:
    """Prints scalar expressions; ``entry`` prints the entries of tensors, ``lengths`` names the axis lengths."""

    def __init__(self, entry: Callable[[Indexed], str], lengths: Mapping[Symbol, str] | None = None) -> None:
        self._entry = entry
        self._lengths = dict(lengths or {})

    def text(self, expression: Expr, outer: int = _TERNARY) -> str:
        """Return the C++ text, in parentheses if ``outer`` binds tighter than the expression.

        Raises ``UsageError`` for a function that the target does not support.
        """
        text, strength = self._print(expression)
        return f"({text})" if strength < outer else text

    def whole(self, expression: Expr) -> str:
        """Return the text of an integer expression in axis lengths, computed in integers throughout."""
        return _whole(expression, self._lengths)

    def _print(self, expression: Expr) -> tuple[str, int]:
        if isinstance(expression, Indexed):
            return self._entry(expression), _ATOM
        if expression in self._lengths or isinstance(expression, sympy.floor | sympy.ceiling | sympy.Mod):
            return f"Wide({self.whole(expression)})", _ATOM
        if isinstance(expression, Symbol):
            return identifier(expression.name), _ATOM
        if expression.is_number:
            return self._number(expression)
        if isinstance(expression, Add):
            return self._sum(expression), _SUM
        if isinstance(expression, Mul):
            return self._product(expression)
        if isinstance(expression, Pow):
            return self._power(expression)
        if isinstance(expression, sympy.Piecewise):
            return self._choice(expression), _TERNARY
        return self._function(expression), _ATOM

    def _number(self, number: Expr) -> tuple[str, int]:
        """An exact integer, a quotient with a wide numerator, or a literal of 17 digits for any other constant."""
        if number == sympy.oo:
            return "infinity()", _ATOM
        if number == -sympy.oo:
            return "-infinity()", _NEGATION
        if number.is_Integer and abs(number) < _LARGEST_INTEGER:
            return (str(number), _ATOM) if number >= 0 else (f"-{-number}", _NEGATION)
        if number.is_Rational and max(abs(number.p), number.q) < _LARGEST_INTEGER:
            return f"Wide({number.p}) / {number.q}", _PRODUCT
        if not number.is_finite or not number.is_real:
            raise UsageError(f"the cuda target cannot print the number {number}; use real, finite constants")
        literal = f"Wide({float(sympy.N(abs(number), 25))!r})"
        return (literal, _ATOM) if number.is_nonnegative else (f"-{literal}", _NEGATION)

    def _sum(self, expression: Add) -> str:
        terms = sorted(expression.args, key=lambda t: (t.could_extract_minus_sign(), bool(fraction(t)[1]), _order(t)))
        text = self.text(terms[0], _PRODUCT)
        for term in terms[1:]:
            negative = term.could_extract_minus_sign()
            text += f" {'-' if negative else '+'} {self.text(-term if negative else term, _PRODUCT)}"
        return text

    def _product(self, expression: Mul) -> tuple[str, int]:
        if expression.could_extract_minus_sign():
            return f"-{self.text(-expression, _PRODUCT)}", _PRODUCT
        above, below = fraction(expression)
        factors = [self.text(f, _NEGATION) for f in above]
        if below and all(f.is_Integer for f in above):
            factors = [f"Wide({' * '.join(factors) or '1'})"]
        text = " * ".join(factors) or "1"
        if below:
            under = " * ".join(self.text(f, _NEGATION) for f in below)
            text += f" / {under}" if len(below) == 1 else f" / ({under})"
        return text, _PRODUCT

    def _power(self, expression: Pow) -> tuple[str, int]:
        """Integer and half-integer powers by products and roots, any other by ``pow``."""
        base, exponent = expression.base, expression.exp
        if exponent.is_Rational and exponent < 0:
            return self._product(Mul(sympy.S.One, expression, evaluate=False))
        if exponent.is_Rational and exponent.q <= 2 and exponent <= _LONGEST_PRODUCT:
            factors = [self.text(base, _NEGATION)] * int(exponent)
            factors += [f"sqrt({self.text(base)})"] if exponent.q == 2 else []
            return " * ".join(factors), _ATOM if len(factors) == 1 else _PRODUCT
        return f"pow({self._wide(base)}, {self._wide(exponent)})", _ATOM

    def _wide(self, expression: Expr) -> str:
        """Return text of the wide type, even for a plain integer."""
        return f"Wide({expression})" if expression.is_Integer else self.text(expression)

    def _choice(self, expression: sympy.Piecewise) -> str:
        """``Piecewise((a, Eq(u, v)), (b, True))``: conditions compare two scalars."""
        text = self.text(expression.args[-1].expr)
        for value, condition in reversed(expression.args[:-1]):
            if not isinstance(condition, Relational):
                raise UsageError(f"the cuda target cannot print the condition {condition}; compare two scalars")
            sides = f"{self.text(condition.lhs, _SUM)} {condition.rel_op} {self.text(condition.rhs, _SUM)}"
            text = f"{sides} ? {self.text(value, _SUM)} : {text}"
        return text

    def _function(self, expression: Expr) -> str:
        name = type(expression).__name__
        inside = [self._wide(a) for a in sorted(expression.args, key=_order)]
        if name == "Stopped":
            return self.text(expression.args[0], _ATOM)
        if name == "sigmoid":
            return f"(1 / (1 + exp(-{self.text(expression.args[0], _ATOM)})))"
        if name in ("sign", "Heaviside"):
            return f"{name.lower()}({self._wide(expression.args[0])})"
        if name not in _FUNCTIONS:
            raise UsageError(
                f"the cuda target cannot print {name} in {expression}; use the functions of the formula language"
            )
        text = inside[0] if len(inside) > 1 else f"{_FUNCTIONS[name]}({inside[0]})"
        for other in inside[1:]:
            text = f"{_FUNCTIONS[name]}({text}, {other})"
        return text


def fraction(expression: Expr) -> tuple[list[Expr], list[Expr]]:
    """Split a product into the factors of its numerator and its denominator, in the order of printing."""
    above: list[Expr] = []
    below: list[Expr] = []
    for factor in Mul.make_args(expression):
        if factor.is_Rational:
            above += [sympy.Integer(factor.p)] if factor.p != 1 else []
            below += [sympy.Integer(factor.q)] if factor.q != 1 else []
        elif isinstance(factor, Pow) and factor.exp.is_Rational and factor.exp < 0:
            below.append(1 / factor)
        else:
            above.append(factor)
    return sorted(above, key=_order), sorted(below, key=_order)


def _order(expression: Expr) -> tuple[bool, int, str]:
    """Numbers first, then scalars, then entries of tensors by their number of axes, then by text."""
    axes = max((len(e.indices) for e in expression.atoms(Indexed)), default=0)
    return (not expression.is_number, axes, str(expression))


def _whole(expression: Expr, lengths: Mapping[Symbol, str]) -> str:
    """Return the integer text of sums, products, floors and remainders of lengths, none of them negative."""
    if expression in lengths:
        return lengths[expression]
    if expression.is_Integer and expression >= 0:
        return str(expression)
    if isinstance(expression, Add | Mul) and all(a.is_integer for a in expression.args):
        sign = " + " if isinstance(expression, Add) else " * "
        return f"({sign.join(_whole(a, lengths) for a in sorted(expression.args, key=_order))})"
    if isinstance(expression, sympy.floor | sympy.ceiling) and expression.args[0].is_nonnegative:
        above, below = sympy.fraction(sympy.together(expression.args[0]))
        up = below - 1 if isinstance(expression, sympy.ceiling) else sympy.S.Zero
        return f"({_whole(above + up, lengths)} / {_whole(below, lengths)})"
    if isinstance(expression, sympy.Mod) and all(a.is_nonnegative and a.is_integer for a in expression.args):
        return f"({_whole(expression.args[0], lengths)} % {_whole(expression.args[1], lengths)})"
    raise UsageError(
        f"the cuda target cannot print the integer {expression}; use lengths, +, *, floor and Mod of numbers >= 0"
    )
