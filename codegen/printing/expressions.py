"""SymPy scalar expressions as Python: ``math`` for expressions without tensors, ``torch`` for those with some.

Narrow factors come before wide ones and positive terms before negative ones, so that the text does not depend on
SymPy's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy
from sympy import Add, Expr, Indexed, Mul, Pow, Symbol

from codegen.printing.layout import is_column
from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.reductions import Stopped
from derive.errors import UsageError

_TENSOR_FUNCTIONS = {"exp", "log", "tanh", "sin", "cos", "sign", "atan", "sigmoid", "erf"}
_CONSTANTS = {sympy.oo: "math.inf", -sympy.oo: "-math.inf", sympy.pi: "math.pi", sympy.E: "math.e"}
_SUM, _PRODUCT, _NEGATION, _POWER, _ATOM = range(5)


class ExpressionPrinter:
    """Prints expressions; ``entry`` prints the entries of tensors, ``sizes`` gives the text of axis lengths."""

    def __init__(self, entry: Callable[[Indexed], str], sizes: Mapping[Symbol, str] | None = None) -> None:
        self._entry = entry
        self._sizes = dict(sizes or {})

    def text(self, expression: Expr, outer: int = _SUM) -> str:
        """Return the Python text, in parentheses if ``outer`` binds tighter than the expression."""
        text, strength = self._print(expression)
        return f"({text})" if strength < outer else text

    def factor(self, expression: Expr) -> str:
        """Return the text of an expression for use next to ``*`` or ``@`` or before a dot."""
        return self.text(expression, _ATOM)

    def _print(self, expression: Expr) -> tuple[str, int]:
        if isinstance(expression, Indexed):
            return self._entry(expression), _ATOM
        if isinstance(expression, Symbol):
            return self._sizes.get(expression, expression.name), _ATOM
        if expression in _CONSTANTS:
            return _CONSTANTS[expression], _ATOM
        if expression.is_Integer:
            return str(expression), _ATOM if expression >= 0 else _NEGATION
        if expression.is_Number:
            return self._quotient(expression)
        if isinstance(expression, Add):
            return self._sum(expression), _SUM
        if isinstance(expression, Mul):
            return self._product(expression)
        if isinstance(expression, Pow):
            return self._power(expression)
        if isinstance(expression, sympy.Heaviside):  # by signs, which autograd supports
            return f"(torch.sign({self.text(expression.args[0])}) + 1) / 2", _PRODUCT
        if isinstance(expression, Quotient | Remainder):
            sign = "//" if isinstance(expression, Quotient) else "%"
            left, right = (self.text(a, _ATOM) for a in expression.args)
            return f"{left} {sign} {right}", _PRODUCT
        return self._function(expression), _ATOM

    def _quotient(self, number: Expr) -> tuple[str, int]:
        if number.is_Rational:
            return f"{number.p} / {number.q}", _PRODUCT
        return repr(float(number)), _ATOM

    def _sum(self, expression: Add) -> str:
        terms = sorted(
            expression.args, key=lambda t: (t.could_extract_minus_sign(), -_axes(t), bool(_below(t)), _order(t))
        )
        text = self.text(terms[0], _PRODUCT)
        for term in terms[1:]:
            negative = term.could_extract_minus_sign()
            text += f" {'-' if negative else '+'} {self.text(-term if negative else term, _PRODUCT)}"
        return text

    def _product(self, expression: Mul) -> tuple[str, int]:
        if expression.could_extract_minus_sign():
            return f"-{self.text(-expression, _PRODUCT)}", _PRODUCT
        above, below = _fraction(expression)
        text = " * ".join(self.text(f, _POWER) for f in above) or "1"
        if below:
            under = [self.text(f, _POWER) for f in below]
            if len(below) > 1 and any(f.has(Indexed) for f in above):
                text += f" / ({' * '.join(under)})"  # one division suffices for a single tensor
            else:  # one at a time: the product of divisors may overflow
                text += "".join(f" / {u}" for u in under)
        return text, _PRODUCT

    def _power(self, expression: Pow) -> tuple[str, int]:
        base, exponent = expression.base, expression.exp
        if exponent.is_Rational and exponent < 0:
            return f"1 / {self.text(1 / expression, _POWER)}", _PRODUCT
        if exponent == sympy.Rational(1, 2):
            return f"{_home(base)}.sqrt({self.text(base)})", _ATOM
        return f"{self.text(base, _ATOM)}**{self.text(exponent, _ATOM)}", _POWER

    def _function(self, expression: Expr) -> str:
        name = type(expression).__name__
        if isinstance(expression, sympy.Piecewise):
            return self._choice(expression)
        inside = [self.text(a) for a in expression.args]
        if isinstance(expression, sympy.Abs):
            return f"torch.abs({inside[0]})" if expression.has(Indexed, Index) else f"abs({inside[0]})"
        if isinstance(expression, Stopped):
            return f"{self.text(expression.args[0], _ATOM)}.detach()"
        if isinstance(expression, sympy.Max | sympy.Min) and expression.has(Indexed, Index):
            return _extreme(name, inside, expression)
        if name in _TENSOR_FUNCTIONS and len(inside) == 1:
            return f"{_home(expression)}.{name}({inside[0]})"
        raise UsageError(
            f"the torch target cannot print {name} in {expression}; write it with the functions of the formula language"
        )

    def _choice(self, expression: sympy.Piecewise) -> str:
        """``Piecewise((a, Eq(u, v)), (b, True))``: one value where two are equal, another elsewhere."""
        (value, condition), (otherwise, _) = expression.args
        agree = f"{self.text(condition.lhs)} == {self.text(condition.rhs)}"
        return f"torch.where({agree}, {self.text(value)}, {self.text(otherwise)})"


def _extreme(name: str, inside: list[str], expression: Expr) -> str:
    """``Max(a, 0)``: ``clamp`` for numbers, ``maximum`` for two tensors at a time."""
    tensors = [t for t, a in zip(inside, expression.args, strict=True) if a.has(Indexed, Index)]
    numbers = [t for t, a in zip(inside, expression.args, strict=True) if not a.has(Indexed, Index)]
    word = name.lower()
    text = tensors[0]
    for other in tensors[1:]:
        text = f"torch.{word}imum({text}, {other})"
    bound = {"max": "min", "min": "max"}[word]
    for number in numbers:
        text = f"torch.clamp({text}, {bound}={number})"
    return text


def _home(expression: Expr) -> str:
    return "torch" if expression.has(Indexed) else "math"


def _fraction(expression: Mul) -> tuple[list[Expr], list[Expr]]:
    """Split a product into the factors of its numerator and its denominator, in the order of printing."""
    above: list[Expr] = []
    below: list[Expr] = []
    for factor in expression.args:
        if factor.is_Rational and not factor.is_Integer:
            above += [sympy.Integer(factor.p)] if factor.p != 1 else []
            below.append(sympy.Integer(factor.q))
        elif isinstance(factor, Pow) and factor.exp.is_Rational and factor.exp < 0:
            below.append(1 / factor)
        else:
            above.append(factor)
    return sorted(above, key=_order), sorted(below, key=_order)


def _below(expression: Expr) -> list[Expr]:
    return [f for f in Mul.make_args(expression) if isinstance(f, Pow) and f.exp.is_Rational and f.exp < 0]


def _axes(expression: Expr) -> int:
    return max((len(e.indices) for e in expression.atoms(Indexed)), default=0)


def _order(expression: Expr) -> tuple[int, bool, bool, str]:
    """Numbers first, then scalars, then tensors by their number of axes, columns before vectors, then by name."""
    column = all(is_column(e.indices) for e in expression.atoms(Indexed))
    return (_axes(expression), not expression.is_Number, not column, str(expression))
