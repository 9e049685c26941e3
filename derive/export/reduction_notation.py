r"""Reductions, masks, integer divisions and named functions as LaTeX: ``\operatorname{softmax}_{k}``, ``[u \le t]``."""

from __future__ import annotations

from sympy import Expr, Mul
from sympy.printing.latex import LatexPrinter

from derive.algebra.index import Quotient, Remainder
from derive.algebra.named import Named
from derive.algebra.nodes import AtMost
from derive.algebra.reductions import Attains, Largest, LogSumExp, Masked, Product, Reduction, Softmax, Stopped
from derive.export.letters import Scope


class ReductionNotation(LatexPrinter):
    """The part of the printer for these nodes; the scope chooses the names of indices."""

    _scope: Scope
    _printed: dict[Expr, str]

    def _bracketed(self, expression: Expr) -> str:
        return rf"\left( {self._print(expression)} \right)"

    def _reduced(self, sign: str, expression: Reduction, brackets: bool) -> str:
        """Print a reduction with its indices, and its condition, below its sign."""
        outer = self._scope, self._printed
        self._scope, self._printed = self._scope.enter(expression.bound), {}
        letters = ", ".join(self._print(index) for index in expression.bound)
        body, below = self._with_condition(expression.body)
        self._scope, self._printed = outer
        inner = rf"\left( {body} \right)" if brackets or body.startswith("-") else body
        return rf"{sign}_{{{letters}{below}}} {inner}"

    def _with_condition(self, body: Expr) -> tuple[str, str]:
        """Return a body, and its condition in the form printed below a sign."""
        if not isinstance(body, Masked):
            return self._print(body), ""
        score, mask = body.args
        guards = sorted(self._print(f) for f in Mul.make_args(mask))
        return self._print(score), r" : " + r" \, ".join(guards)

    def _print_LogSumExp(self, expression: LogSumExp, exp: str | None = None) -> str:
        return self._raised(self._reduced(r"\operatorname{logsumexp}", expression, True), exp)

    def _print_Largest(self, expression: Largest, exp: str | None = None) -> str:
        return self._raised(self._reduced(r"\max", expression, expression.body.is_Add), exp)

    def _print_Product(self, expression: Product, exp: str | None = None) -> str:
        return self._raised(self._reduced(r"\prod", expression, expression.body.is_Add), exp)

    def _print_Softmax(self, expression: Softmax, exp: str | None = None) -> str:
        score, place = expression.args[0], expression.place
        if place is None:
            return self._raised(f"e^{{{self._print(score)} - {self._print(expression.args[1])}}}", exp)
        letters = ", ".join(self._print(index) for index in place.values())
        body, below = self._with_condition(score)
        return self._raised(rf"\operatorname{{softmax}}_{{{letters}{below}}}\left( {body} \right)", exp)

    def _print_Masked(self, expression: Masked, exp: str | None = None) -> str:
        body, below = self._with_condition(expression)
        return self._raised(rf"\left( {body} \right)_{{{below.removeprefix(' : ')}}}", exp)

    def _print_Attains(self, expression: Attains, exp: str | None = None) -> str:
        one, largest = (self._print(a) for a in expression.args)
        return self._raised(rf"\left[ {one} = {largest} \right]", exp)

    def _print_Quotient(self, expression: Quotient, exp: str | None = None) -> str:
        above, below = (self._print(a) for a in expression.args)
        return rf"\left\lfloor {above} / {below} \right\rfloor"

    def _print_Remainder(self, expression: Remainder, exp: str | None = None) -> str:
        value, divisor = expression.args
        left = self._bracketed(value) if value.is_Add else self._print(value)
        return rf"{left} \bmod {self._print(divisor)}"

    def _print_Stopped(self, expression: Stopped, exp: str | None = None) -> str:
        return self._raised(rf"\operatorname{{held}}{self._bracketed(expression.args[0])}", exp)

    def _print_AtMost(self, expression: AtMost, exp: str | None = None) -> str:
        left, right = (self._print(a) for a in expression.args)
        return rf"\left[ {left} \le {right} \right]"

    def _raised(self, printed: str, exp: str | None) -> str:
        return printed if exp is None else rf"\left( {printed} \right)^{{{exp}}}"

    def _print_Function(self, expression: Expr, exp: str | None = None) -> str:
        if not isinstance(expression, Named):
            return str(super()._print_Function(expression, exp))
        name = rf"\operatorname{{{expression.stem.replace('_', '-')}}}" + "'" * expression.order
        return self._raised(f"{name}{self._bracketed(expression.args[0])}", exp)
