"""Expressions as plain text, for terminals and JSON, in the syntax of the formula language where it has one.

``sum[j](x[s,j]**2)`` is a sum over the whole axis of ``j``; ``delta(i, i')`` is 1 where the indices agree;
``within(e, n)`` and ``divides(d, e)`` are the range and divisibility guards; ``step(u)``, the derivative of
``max(u, 0)``, is 1 where u > 0; ``silu'(u)`` is the derivative of a named function; ``attains(e, max[k](..))`` is 1
where ``e`` is the largest; ``u <= t`` is 1 where it holds; ``diff(e, W[i,j])`` and ``at_zero(e, eta)`` are derivatives
not yet carried out.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul, Pow, Rational, S
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.named import Named
from derive.algebra.nodes import AtMost, AtZero, Divides, IndexedSum, PartialDerivative, Within
from derive.algebra.reductions import Attains, Largest, LogSumExp, Masked, Product, Reduction, Softmax, Stopped
from derive.export.letters import Hints, Scope, root_scope
from derive.export.order import ordered_terms, split_fraction

_FUNCTIONS = {"Abs": "abs", "Max": "max", "Min": "min", "Pow": "pow", "Heaviside": "step"}


def text(expression: Expr, hints: Hints | None = None, reserve: Sequence[Expr] = ()) -> str:
    """Return an expression as one line of text; letters of bound indices clash with no other name.

    ``hints`` prefers a letter for an axis length; names in ``reserve`` are not given to bound indices.
    """
    return TextPrinter(root_scope(expression, *reserve, hints=hints)).doprint(expression)


class TextPrinter(StrPrinter):
    """SymPy's text printer with our nodes, our order of terms and letters chosen by scope."""

    printmethod = "_affdiv_text"  # not "_sympystr": Indexed and others would print themselves, with engine names

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self._scope = scope
        self._printed: dict[Expr, str] = {}  # cache of this scope: sorting prints every part before it is written

    def _print(self, expr: Expr, **settings: object) -> str:
        if settings or not isinstance(expr, Expr):
            return str(super()._print(expr, **settings))
        if expr not in self._printed:
            self._printed[expr] = str(super()._print(expr))
        return self._printed[expr]

    def _print_Index(self, expression: Index) -> str:
        return self._scope.name(expression)

    def _print_Indexed(self, expression: Indexed) -> str:
        indices = ",".join(self._print(index) for index in expression.indices)
        return f"{expression.base.label}[{indices}]"

    def _print_IndexedBase(self, expression: sympy.IndexedBase) -> str:
        return str(expression.label)

    def _print_IndexedSum(self, expression: IndexedSum) -> str:
        outer = self._scope, self._printed
        self._scope, self._printed = self._scope.enter(expression.bound), {}
        letters = ",".join(self._print(index) for index in expression.bound)
        body = self._print(expression.body)
        self._scope, self._printed = outer
        return f"sum[{letters}]({body})"

    def _reduced(self, name: str, expression: Reduction) -> str:
        """Print a reduction as ``name[j](body)``, followed by its condition if it has one."""
        outer = self._scope, self._printed
        self._scope, self._printed = self._scope.enter(expression.bound), {}
        letters = ",".join(self._print(index) for index in expression.bound)
        body = self._with_condition(expression.body)
        self._scope, self._printed = outer
        return f"{name}[{letters}]({body})"

    def _with_condition(self, body: Expr) -> str:
        if isinstance(body, Masked):
            return f"{self._print(body.args[0])}, {self._condition(body.args[1])}"
        return self._print(body)

    def _condition(self, mask: Expr) -> str:
        """Print a product of comparisons as formulas join them, and anything else as a number."""
        factors = Mul.make_args(mask)
        if not all(isinstance(f, AtMost | KroneckerDelta) for f in factors):
            return self._print(mask)
        printed = (self._compared("<=" if isinstance(f, AtMost) else "==", f) for f in factors)
        return " and ".join(sorted(printed))

    def _compared(self, sign: str, guard: Expr) -> str:
        return f" {sign} ".join(self._print(side) for side in guard.args)

    def _print_LogSumExp(self, expression: LogSumExp) -> str:
        return self._reduced("logsumexp", expression)

    def _print_Largest(self, expression: Largest) -> str:
        return self._reduced("max", expression)

    def _print_Product(self, expression: Product) -> str:
        return self._reduced("prod", expression)

    def _print_Softmax(self, expression: Softmax) -> str:
        """Print a softmax weight: in the syntax of formulas if the whole runs over its score, else as exponentials."""
        score, place = expression.args[0], expression.place
        if place is None:
            return f"exp({self._print(score)} - {self._print(expression.args[1])})"
        letters = ",".join(self._print(index) for index in place.values())
        return f"softmax[{letters}]({self._with_condition(score)})"

    def _print_Masked(self, expression: Masked) -> str:
        return f"masked({self._with_condition(expression)})"

    def _print_Attains(self, expression: Attains) -> str:
        return f"attains({', '.join(self._print(a) for a in expression.args)})"

    def _print_Quotient(self, expression: Quotient) -> str:
        return " // ".join(self._side(a) for a in expression.args)

    def _print_Remainder(self, expression: Remainder) -> str:
        return " % ".join(self._side(a) for a in expression.args)

    def _side(self, expression: Expr) -> str:
        """Print one side of an integer division."""
        printed = self._print(expression)
        return printed if expression.is_Atom else f"({printed})"

    def _print_Stopped(self, expression: Stopped) -> str:
        return self._call("stop_gradient", expression.args)

    def _print_AtMost(self, expression: AtMost) -> str:
        return f"({self._compared('<=', expression)})"

    def _print_KroneckerDelta(self, expression: KroneckerDelta) -> str:
        return f"delta({', '.join(sorted(self._print(a) for a in expression.args))})"

    def _print_Within(self, expression: Within) -> str:
        return self._call("within", expression.args)

    def _print_Divides(self, expression: Divides) -> str:
        return self._call("divides", expression.args)

    def _print_PartialDerivative(self, expression: PartialDerivative) -> str:
        return self._call("diff", expression.args)

    def _print_AtZero(self, expression: AtZero) -> str:
        return self._call("at_zero", expression.args)

    def _print_Subs(self, expression: sympy.Subs) -> str:
        """Print a derivative of an undefined function at a point as ``sigma'(u)``."""
        inner = expression.expr
        if isinstance(inner, sympy.Derivative) and len(expression.point) == 1 and len(inner.variable_count) == 1:
            order = int(inner.variable_count[0][1])
            return f"{inner.expr.func.__name__}{chr(39) * order}({self._print(expression.point[0])})"
        return str(super()._print_Subs(expression))

    def _print_Derivative(self, expression: sympy.Derivative) -> str:
        if isinstance(expression.expr, sympy.core.function.AppliedUndef) and len(expression.variable_count) == 1:
            order = int(expression.variable_count[0][1])
            arguments = ", ".join(self._print(a) for a in expression.expr.args)
            return f"{expression.expr.func.__name__}{chr(39) * order}({arguments})"
        return str(super()._print_Derivative(expression))

    def _print_Function(self, expression: Expr) -> str:
        name = expression.func.__name__
        if isinstance(expression, Named):
            return self._call(expression.stem + "'" * expression.order, expression.args)
        arguments = sorted(expression.args, key=lambda a: a.is_number) if name in ("Max", "Min") else expression.args
        arguments = arguments[:1] if isinstance(expression, sympy.Heaviside) else arguments
        return self._call(_FUNCTIONS.get(name, name), arguments)

    _print_Abs = _print_Max = _print_Min = _print_Heaviside = _print_Function

    def _call(self, name: str, arguments: Sequence[Expr]) -> str:
        return f"{name}({', '.join(self._print(a) for a in arguments)})"

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
        above = "*".join(self._factor(f) for f in fraction.numerator) or "1"
        sign = "-" if fraction.negative else ""
        if not fraction.denominator:
            return sign + above
        below = "*".join(self._factor(f) for f in fraction.denominator)
        return f"{sign}{above}/({below})" if len(fraction.denominator) > 1 else f"{sign}{above}/{below}"

    def _factor(self, factor: Expr) -> str:
        if isinstance(factor, Quotient | Remainder):
            return f"({self._print(factor)})"
        return str(self.parenthesize(factor, PRECEDENCE["Mul"]))

    def _print_Pow(self, expression: Pow, rational: bool = False) -> str:
        base, exponent = expression.args
        if isinstance(exponent, Rational) and exponent < 0:
            return f"1/{self._factor(Pow(base, -exponent))}"
        if exponent == S.Half:
            return f"sqrt({self._print(base)})"
        power = self._print(exponent)
        power = power if exponent.is_Atom and not (exponent.is_Rational and exponent.q != 1) else f"({power})"
        return f"{self.parenthesize(base, PRECEDENCE['Pow'])}**{power}"

    def _print_Rational(self, expression: Rational) -> str:
        return f"{expression.p}/{expression.q}"
