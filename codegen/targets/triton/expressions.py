"""SymPy scalar expressions as Triton code on tiles; subexpressions without a tensor are computed before the launch.

For example:

    sqrt(kappa)/(peak*sqrt(q + peak**(-2)))      sqrt_kappa / peak / tl.sqrt(q + 1 / peak / peak)
    f*u_gW/(kappa - 1)                           f * u_gW / kappa_minus_1
"""

from __future__ import annotations

import re
from collections.abc import Callable

import sympy
from sympy import Expr, Indexed, Pow
from sympy.core.relational import Relational

from codegen.printing.expressions import ExpressionPrinter
from derive.errors import UsageError

HELPERS = ("atan", "tanh")  # functions of Triton's ``runtime.functions``
_FUNCTIONS = {"exp", "log", "sin", "cos", "erf"}
_PRODUCT, _POWER, _ATOM = 1, 3, 4  # precedences, see ExpressionPrinter


class Constants:
    """The scalars that a kernel's lines use: a name, and the Python text of its value, in the order of first use."""

    def __init__(self) -> None:
        self._text: dict[str, str] = {}

    def name(self, expression: Expr) -> str:
        """Return the name for an expression without a tensor."""
        text = ExpressionPrinter(str).text(expression)
        name = _identifier(text)
        self._text[name] = text
        return name

    @property
    def items(self) -> tuple[tuple[str, str], ...]:
        """Each name with the text of its value."""
        return tuple(self._text.items())


class TileExpressionPrinter(ExpressionPrinter):
    """Prints expressions of tiles; ``entry`` prints the entries, ``constants`` collects parts without entries."""

    def __init__(self, entry: Callable[[Indexed], str], constants: Constants) -> None:
        super().__init__(entry)
        self._constants = constants

    def _print(self, expression: Expr) -> tuple[str, int]:
        if expression == sympy.oo:
            return 'float("inf")', _ATOM
        is_length = expression.is_Symbol and expression.is_integer
        if not expression.has(Indexed) and not expression.is_Number and not is_length:
            return self._constants.name(expression), _ATOM
        if isinstance(expression, sympy.Piecewise):
            return self._where(expression), _ATOM
        if isinstance(expression, sympy.Heaviside):
            return self._function(expression), _ATOM
        return super()._print(expression)

    def _where(self, expression: sympy.Piecewise) -> str:
        """``Piecewise((value, Eq(u, v)), (otherwise, True))``: conditions compare two scalars."""
        text = self.text(expression.args[-1].expr)
        for value, condition in reversed(expression.args[:-1]):
            if not isinstance(condition, Relational):
                raise UsageError(f"the triton target cannot print the condition {condition}; compare two scalars")
            sides = f"{self.text(condition.lhs)} {condition.rel_op} {self.text(condition.rhs)}"
            text = f"tl.where({sides}, {self.text(value)}, {text})"
        return text

    def _power(self, expression: Pow) -> tuple[str, int]:
        base, exponent = expression.base, expression.exp
        if (
            exponent.is_Integer and exponent < 0
        ):  # one division at a time: a power may overflow while its inverse only underflows
            return "1" + f" / {self.text(base, _ATOM)}" * -int(exponent), _PRODUCT
        if exponent.is_Rational and exponent < 0:
            return f"1 / {self.text(1 / expression, _POWER)}", _PRODUCT
        if not (exponent.is_Rational and exponent.q <= 2):
            return f"tl.exp({self.text(exponent, _POWER)} * tl.log({self.text(base)}))", _ATOM
        whole, half = divmod(int(2 * exponent), 2)
        factors = [self.text(base, _POWER)] * whole + [f"tl.sqrt({self.text(base)})"] * half
        return (factors[0], _ATOM) if len(factors) == 1 else (" * ".join(factors), _PRODUCT)

    def _function(self, expression: Expr) -> str:
        name = type(expression).__name__
        inside = [self.text(a) for a in expression.args]
        if isinstance(expression, sympy.Abs):
            return f"tl.abs({inside[0]})"
        if isinstance(expression, sympy.Max | sympy.Min):
            return self._extreme(name, inside)
        if name in HELPERS:
            return f"{name}({inside[0]})"
        if name == "Stopped":
            return inside[0]
        if name == "sigmoid":
            return f"(1.0 / (1.0 + tl.exp(-({inside[0]}))))"
        if name == "Heaviside":
            return f"tl.where({inside[0]} > 0, 1.0, tl.where({inside[0]} < 0, 0.0, 0.5))"
        if name == "sign":
            return f"tl.where({inside[0]} > 0, 1.0, tl.where({inside[0]} < 0, -1.0, {inside[0]}))"
        if name in _FUNCTIONS and len(inside) == 1:
            return f"tl.{name}({inside[0]})"
        raise UsageError(
            f"the triton target cannot print {name} in {expression}; use the functions of the formula language"
        )

    @staticmethod
    def _extreme(name: str, inside: list[str]) -> str:
        text = inside[0]
        for other in inside[1:]:
            text = f"tl.{name.lower()}imum({text}, {other}, propagate_nan=tl.PropagateNan.ALL)"
        return text


def _identifier(text: str) -> str:
    """Return a name for Python text: ``sqrt_kappa`` for ``math.sqrt(kappa)``."""
    words = {"math.": "", "**": " to ", "*": " times ", "/": " over ", "+": " plus ", " - ": " minus ", "-": " minus "}
    for sign, word in words.items():
        text = text.replace(sign, word)
    name = re.sub(r"\W+", "_", text).strip("_")
    return name if name.isidentifier() else f"scalar_{name}"
